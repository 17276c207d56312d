//! The log of the transitions of apps.

use super::Agent;
use crate::core::{AppState, Transition};

impl Agent {
    /// Logs what has happened to apps, and queues their hooks. The UPDATEs of the same change have left.
    pub(super) fn log_transitions(&mut self) {
        for transition in std::mem::take(&mut self.transitions) {
            self.log_transition(&transition);
            self.hooks.enqueue(&transition);
        }
    }

    fn log_transition(&self, transition: &Transition) {
        // While stopping, `drained` is logged at debug level: `draining` was logged for each app.
        let level = if self.core.is_stopping() && transition.to == AppState::Drained {
            log::Level::Debug
        } else {
            log::Level::Info
        };
        let Transition {
            app, from, to, why, ..
        } = transition;
        log::log!(level, "app {app}: {from} -> {to}: {why}");
    }
}
