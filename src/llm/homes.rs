//! Which server a chunk's calls go to: always the same, so that its prefix cache serves them; and the first call goes
//! ahead alone, so that its siblings find the prefix there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::ItemId;

/// Chunks whose server is remembered, in each of two generations.
const REMEMBERED: usize = 1_024;

/// Where a chunk's calls go.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) endpoint: usize,
    pub(super) warmth: Arc<Warmth>,
}

/// Whether a server has read a chunk's prefix. The first call goes ahead alone, so that its siblings find it cached.
#[derive(Default)]
pub(super) struct Warmth {
    pub(super) state: Mutex<WarmthState>,
    pub(super) warmed: Notify,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum WarmthState {
    #[default]
    Cold,
    Warming,
    Warm,
}

/// The call that goes ahead; whatever becomes of it, its siblings may follow.
pub(super) struct Leader(Arc<Warmth>);

impl Drop for Leader {
    fn drop(&mut self) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = WarmthState::Warm;
        self.0.warmed.notify_waiters();
    }
}

impl Warmth {
    /// Becomes the leader, or waits until the leader is done.
    pub(super) async fn enter(self: Arc<Self>) -> Option<Leader> {
        loop {
            let warmed = self.warmed.notified();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                match *state {
                    WarmthState::Cold => {
                        *state = WarmthState::Warming;
                        drop(state);
                        return Some(Leader(Arc::clone(&self)));
                    }
                    WarmthState::Warm => return None,
                    WarmthState::Warming => {}
                }
            }
            warmed.await;
        }
    }
}

/// The chunks' homes in two generations: when the younger is full, the older is forgotten.
#[derive(Default)]
pub(super) struct Homes {
    pub(super) young: HashMap<ItemId, Home>,
    pub(super) old: HashMap<ItemId, Home>,
}

impl Homes {
    pub(super) fn get(&mut self, id: &ItemId) -> Option<Home> {
        if let Some(home) = self.young.get(id) {
            return Some(home.clone());
        }
        let home = self.old.remove(id)?;
        self.set(*id, home.clone());
        Some(home)
    }

    pub(super) fn set(&mut self, id: ItemId, home: Home) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, home);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn siblings_wait_for_the_first_call_whatever_becomes_of_it() {
        let warmth = Arc::new(Warmth::default());
        let leader = Arc::clone(&warmth).enter().await;
        assert!(leader.is_some());
        let sibling = tokio::spawn(Arc::clone(&warmth).enter());
        tokio::task::yield_now().await;
        assert!(!sibling.is_finished());
        drop(leader);
        assert!(sibling.await.unwrap().is_none());
        assert!(warmth.enter().await.is_none());
    }
}
