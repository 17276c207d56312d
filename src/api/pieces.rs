//! Answers that grow with the apps are made piece by piece: each is asked for when the one before it was
//! sent, so that neither a slow client nor a long list holds memory or a turn of the loop.
//!
//! Between two pieces apps may come and go. A name tells where to go on; each app that is there all the
//! time is in the answer once.

use std::rc::Rc;

use super::{JSON, NatCounters, Response, World, count};
use crate::app::AppName;
use crate::core::{AppView, Core};
use crate::view;
use crate::view::metrics::{self, Extra, FAMILIES, Page};

/// Where an answer goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    listing: Listing,
    /// The next of the families of metrics that apps have.
    family: usize,
    /// The last app that was shown, in that family.
    behind: Option<AppName>,
    nat: Rc<NatCounters>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Apps,
    Metrics,
}

/// The answer with its first piece.
pub(super) fn begin(core: &Core, world: &World<'_>, listing: Listing) -> Response {
    let content_type = match listing {
        Listing::Apps => JSON,
        Listing::Metrics => metrics::CONTENT_TYPE,
    };
    let all = Rest {
        listing,
        family: 0,
        behind: None,
        nat: Rc::clone(world.nat),
    };
    Response {
        content_type,
        ..go_on(core, world, all)
    }
}

/// The next piece, as the body, and what is left then.
pub fn go_on(core: &Core, world: &World<'_>, rest: Rest) -> Response {
    let (body, rest) = match rest.listing {
        Listing::Apps => rest.apps(core, world),
        Listing::Metrics => rest.metrics(core, world),
    };
    Response {
        body,
        rest,
        ..Response::empty()
    }
}

impl Rest {
    fn apps(mut self, core: &Core, world: &World<'_>) -> (Vec<u8>, Option<Self>) {
        let from = self.behind.clone();
        let mut body = Vec::new();
        if from.is_none() {
            body.push(b'[');
        }
        for app in core.apps(world.now, from.as_ref()) {
            if body.len() >= PIECE {
                return (body, Some(self));
            }
            if self.behind.is_some() {
                body.push(b',');
            }
            let app = self.count(app);
            // Writing into memory cannot fail.
            let _ = serde_json::to_writer(&mut body, &view::json::app(&app, world.wall));
            self.behind = Some(app.name);
        }
        body.extend_from_slice(b"]\n");
        (body, None)
    }

    fn metrics(mut self, core: &Core, world: &World<'_>) -> (Vec<u8>, Option<Self>) {
        let mut page = Page::default();
        let mut looked_at = 0;
        if self.family == 0 && self.behind.is_none() {
            page.begin();
        }
        while let Some(family) = FAMILIES.get(self.family) {
            if !family.of_nat || !self.nat.is_empty() {
                let from = self.behind.clone();
                page.open(family, from.is_none());
                for app in core.apps(world.now, from.as_ref()) {
                    // A family that was opened shows an app, by which it goes on.
                    let enough = page.len() >= PIECE || looked_at >= MOST_APPS;
                    if enough && self.behind.is_some() {
                        return (page.into_bytes(), Some(self));
                    }
                    looked_at += 1;
                    let app = self.count(app);
                    (family.samples)(&mut page, &app);
                    self.behind = Some(app.name);
                }
            }
            self.behind = None;
            self.family += 1;
        }
        let extra = Extra {
            process: (world.process)(),
            consul_up: world.consul_up,
            reload: world.reload,
            longest_turn: world.longest_turn,
            log_lines_dropped: world.log_lines_dropped,
            state_file_written: world.state_file_written,
        };
        page.end(&core.peers(world.now), &extra);
        (page.into_bytes(), None)
    }

    fn count(&self, mut app: AppView) -> AppView {
        count(&mut app, &self.nat);
        app
    }
}

/// Bytes after which a piece ends with the app it is at.
const PIECE: usize = 16 * 1024;
/// Apps that are looked at for one piece of metrics, where each says little.
const MOST_APPS: usize = 256;
