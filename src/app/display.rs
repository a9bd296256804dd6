//! The display of a run on a terminal: a line for each stage, and one for the whole.

use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::bottleneck::BottleneckKind;
use super::progress::Status;
use crate::model::plan::Plan;
use crate::telemetry::log;

/// Bars, one for each stage, and a summary below.
pub(super) struct Display {
    bars: Vec<ProgressBar>,
    summary: ProgressBar,
}

impl Display {
    /// A display if standard error is a terminal; a job log gets lines instead.
    pub(super) fn for_run(plan: &Plan) -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ")
        };
        let bar = |name: &str| {
            let bar = all.add(ProgressBar::new(0));
            bar.set_style(style("{prefix:11!} [{bar:20}] {wide_msg}"));
            bar.set_prefix(name.to_owned());
            bar
        };
        let bars = plan.nodes.iter().map(|node| bar(&node.name)).collect();
        let summary = all.add(ProgressBar::new(0));
        summary.set_style(style("{elapsed_precise} {wide_msg}"));
        log::above(Some(all));
        Some(Self { bars, summary })
    }

    /// Shows a status.
    pub(super) fn show(&self, status: &Status) {
        for (bar, stage) in self.bars.iter().zip(&status.stages) {
            bar.set_length(stage.admitted);
            bar.set_position(stage.admitted - stage.pending);
            let dead = if stage.dead > 0 { format!(", {} dead", stage.dead) } else { String::new() };
            bar.set_message(format!(
                "{}/{} ({} at work), {:.0}/min{dead}",
                stage.admitted - stage.pending,
                stage.admitted,
                stage.in_flight,
                stage.per_minute_now
            ));
        }
        let limited = status.bottleneck.as_ref().filter(|found| found.kind != BottleneckKind::None);
        let limited = limited.map_or_else(String::new, |found| format!(" · limited by {}", found.name));
        self.summary.set_message(format!("{}{limited}", status.eta_text()));
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        log::above(None);
        for bar in self.bars.iter().chain([&self.summary]) {
            bar.finish_and_clear();
        }
    }
}
