//! What a vLLM server says about itself on `/metrics`, read as text.

/// A server's own figures, over all its engines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerFigures {
    /// Requests in service.
    pub running: f64,
    /// Requests in its queue.
    pub waiting: f64,
    /// The share of its key-value cache in use, 0 to 1.
    pub kv_usage: f64,
    /// Prompt tokens looked up in its prefix cache since it started.
    pub prefix_queries: u64,
    /// Those found.
    pub prefix_hits: u64,
    /// Requests that it put back into its queue since it started.
    pub preemptions: u64,
}

impl ServerFigures {
    /// Reads a page in Prometheus' text format; `None` if it is not vLLM's. Counters may end in `_total` or not.
    pub fn read(page: &str) -> Option<Self> {
        let values = |name: &str| -> Vec<f64> {
            page.lines()
                .filter_map(|line| {
                    let rest = line.strip_prefix("vllm:")?.strip_prefix(name)?;
                    let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
                    // A timestamp may follow; a longer name has no blank here.
                    rest.starts_with(' ').then(|| rest.split_whitespace().next()?.parse::<f64>().ok())?
                })
                .filter(|value| value.is_finite() && *value >= 0.0)
                .collect()
        };
        let sum = |name: &str| values(name).into_iter().reduce(|a, b| a + b);
        let count = |name: &str| sum(&format!("{name}_total")).or_else(|| sum(name)).unwrap_or(0.0) as u64;
        let usage = values("kv_cache_usage_perc");
        Some(Self {
            running: sum("num_requests_running").unwrap_or(0.0),
            waiting: sum("num_requests_waiting")?,
            kv_usage: if usage.is_empty() { 0.0 } else { usage.iter().sum::<f64>() / usage.len() as f64 },
            prefix_queries: count("prefix_cache_queries"),
            prefix_hits: count("prefix_cache_hits"),
            preemptions: count("num_preemptions"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vllms_page_is_read() {
        let page = "# HELP vllm:num_requests_waiting x\n# TYPE vllm:num_requests_waiting gauge\n\
                    vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\"} 3.0\n\
                    vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 3.0 1700000000000\n\
                    vllm:num_requests_waiting_by_reason{reason=\"x\"} 9\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.75\n\
                    vllm:prefix_cache_queries_total{a=\"}\"} 100\nvllm:prefix_cache_hits 40\n\
                    vllm:num_preemptions_total 7\nvllm:num_preemptions_created 1.7e9\n";
        let read = ServerFigures {
            running: 5.0,
            waiting: 3.0,
            kv_usage: 0.5,
            prefix_queries: 100,
            prefix_hits: 40,
            preemptions: 7,
        };
        assert_eq!(ServerFigures::read(page), Some(read));
        assert_eq!(ServerFigures::read("other_metric 1\n"), None);
        assert_eq!(ServerFigures::read("vllm:num_requests_waiting NaN\n"), None);
    }
}
