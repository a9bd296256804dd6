//! Rate limits of an endpoint: requests and tokens a minute. The only user of governor.
//!
//! A request's tokens are not known before its answer: they are estimated when it is sent, and what the estimate was
//! wrong by is taken from, or given to, the requests after it.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::model::llm::CompletionRequest;

/// Characters a token, about, for estimates.
const CHARS_A_TOKEN: u64 = 4;

/// The limits of one endpoint; without any, requests pass at once.
pub struct Limits {
    requests: Option<DefaultDirectRateLimiter>,
    tokens: Option<(DefaultDirectRateLimiter, u32)>,
    /// Tokens used beyond what was estimated, still to be waited for; negative if fewer were used.
    debt: AtomicI64,
}

impl Limits {
    /// At most so many requests and tokens a minute, evenly spread: requests one by one, tokens in portions of a tenth
    /// of a minute's at most.
    pub fn new(requests_per_minute: Option<NonZeroU32>, tokens_per_minute: Option<NonZeroU32>) -> Self {
        let tokens = tokens_per_minute.map(|limit| {
            let burst = NonZeroU32::new(limit.get() / 10).unwrap_or(NonZeroU32::MIN);
            (RateLimiter::direct(Quota::per_minute(limit).allow_burst(burst)), burst.get())
        });
        Self {
            requests: requests_per_minute
                .map(|limit| RateLimiter::direct(Quota::per_minute(limit).allow_burst(NonZeroU32::MIN))),
            tokens,
            debt: AtomicI64::new(0),
        }
    }

    /// Waits until a request of about `estimate` tokens may be sent. Cancel-safe.
    pub async fn admit(&self, estimate: u64) {
        if let Some((limiter, burst)) = &self.tokens {
            let debt = self.debt.swap(0, Ordering::Relaxed);
            let mut wanted = estimate.cast_signed().saturating_add(debt);
            if wanted < 1 {
                // More was given back than this request takes: the rest is for the next one.
                self.debt.fetch_add(wanted - 1, Ordering::Relaxed);
                wanted = 1;
            }
            let mut left = wanted as u64;
            while left > 0 {
                let part = NonZeroU32::new(left.min(u64::from(*burst)) as u32).unwrap_or(NonZeroU32::MIN);
                // A portion is at most the burst, so the limiter can always grant it.
                let _ = limiter.until_n_ready(part).await;
                left -= u64::from(part.get()).min(left);
            }
        }
        if let Some(limiter) = &self.requests {
            limiter.until_ready().await;
        }
    }

    /// Corrects an estimate by what the answer took.
    pub fn correct(&self, estimate: u64, actual: u64) {
        if self.tokens.is_some() {
            self.debt.fetch_add(actual.cast_signed() - estimate.cast_signed(), Ordering::Relaxed);
        }
    }
}

/// About how many tokens a request takes: its prompt, and half of what its answer may have.
pub fn estimate(request: &CompletionRequest) -> u64 {
    let chars: usize = request.messages.iter().map(|message| message.content.len()).sum();
    chars as u64 / CHARS_A_TOKEN + u64::from(request.max_tokens / 2)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn requests_are_spread_evenly() {
        let limits = Limits::new(NonZeroU32::new(1200), None);
        let began = Instant::now();
        for _ in 0..5 {
            limits.admit(1_000_000).await;
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(190), "1,200 a minute is one every 50 ms: {took:?}");
    }

    #[tokio::test]
    async fn a_wrong_estimate_is_made_up_for() {
        // 60,000 a minute: one a millisecond, in portions of up to 6,000.
        let limits = Limits::new(None, NonZeroU32::new(60_000));
        limits.admit(6_000).await;
        let began = Instant::now();
        limits.correct(6_000, 6_100);
        limits.admit(100).await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(180), "100 owed and 100 asked for: {took:?}");
        limits.correct(100, 0);
        limits.admit(80).await;
        let debt = limits.debt.load(Ordering::Relaxed);
        assert_eq!(debt, -21, "100 were given back: of the 80 one is waited for, and 21 are left for the next");
    }

    #[tokio::test]
    async fn without_limits_nothing_waits() {
        let limits = Limits::new(None, None);
        for _ in 0..1000 {
            limits.admit(u64::from(u32::MAX)).now_or_never().expect("at once");
        }
    }
}
