//! Answers that grow with the number of apps are made in chunks, each when the one before it was sent,
//! so that neither a slow client nor a long list takes memory or blocks the event loop.
//!
//! Apps may be added and removed between two chunks. The last name tells where to continue; an app that
//! exists all the time is in the answer once.

use std::rc::Rc;

use super::continuation::{Continuation, Listing};
use super::{ApiContext, JSON, Response, add_nat_count, verdict};
use crate::core::{AppView, ChangeOf, Core, HistoryEvent};
use crate::view;
use crate::view::metrics::{self, Extra, FAMILIES, MetricsText};
use crate::view::page::{self, Markup, Selection};
use crate::view::verdict::{Level, of_app};

/// The answer with its first chunk.
pub(super) fn begin(core: &Core, context: &ApiContext<'_>, listing: Listing) -> Response {
    let content_type = match listing {
        Listing::Apps => JSON,
        Listing::Metrics => metrics::CONTENT_TYPE,
        Listing::Page(_) => page::CONTENT_TYPE,
    };
    let all = Continuation {
        listing,
        next: 0,
        after: None,
        nat: Rc::clone(context.nat),
    };
    Response {
        content_type,
        ..next_chunk(core, context, all)
    }
}

/// The next chunk, as the body, and the continuation, if any.
pub fn next_chunk(core: &Core, context: &ApiContext<'_>, rest: Continuation) -> Response {
    let (body, rest) = match &rest.listing {
        Listing::Apps => rest.apps(core, context),
        Listing::Metrics => rest.metrics(core, context),
        Listing::Page(selection) => {
            let selection = Rc::clone(selection);
            rest.page(core, context, &selection)
        }
    };
    Response {
        body,
        rest,
        ..Response::empty()
    }
}

impl Continuation {
    fn apps(mut self, core: &Core, context: &ApiContext<'_>) -> (Vec<u8>, Option<Self>) {
        let from = self.after.clone();
        let mut body = Vec::new();
        if from.is_none() {
            body.push(b'[');
        }
        let peers = core.peers(context.now);
        for app in core.apps(context.now, from.as_ref()) {
            if body.len() >= CHUNK_BYTES {
                return (body, Some(self));
            }
            if self.after.is_some() {
                body.push(b',');
            }
            let app = self.add_nat_count(app);
            // Writing into memory cannot fail.
            let standing = core.app_status(context.now, &app.name);
            let standing = standing.map_or((Level::Ok, Vec::new()), |app| of_app(&app, &peers));
            let json = view::json::app(&app, &standing, context.wall);
            let _ = serde_json::to_writer(&mut body, &json);
            self.after = Some(app.name);
        }
        body.extend_from_slice(b"]\n");
        (body, None)
    }

    fn metrics(mut self, core: &Core, context: &ApiContext<'_>) -> (Vec<u8>, Option<Self>) {
        let mut page = MetricsText::default();
        let mut looked_at = 0;
        if self.next == 0 && self.after.is_none() {
            page.begin();
        }
        while let Some(family) = FAMILIES.get(self.next) {
            if !family.of_nat || !self.nat.is_empty() {
                let from = self.after.clone();
                page.open(family, from.is_none());
                for app in core.apps_without_routes(context.now, from.as_ref()) {
                    // At least one app follows each family's header, so that `after` says where to continue.
                    let enough = page.len() >= CHUNK_BYTES || looked_at >= MAX_APPS_PER_CHUNK;
                    if enough && self.after.is_some() {
                        return (page.into_bytes(), Some(self));
                    }
                    looked_at += 1;
                    let app = self.add_nat_count(app);
                    (family.samples)(&mut page, &app);
                    self.after = Some(app.name);
                }
            }
            self.after = None;
            self.next += 1;
        }
        let extra = Extra {
            process: (context.process)(),
            consul_up: context.consul_up,
            reload: context.reload,
            longest_turn: context.longest_turn,
            log_lines_dropped: context.log_lines_dropped,
            state_file_written: context.state_file_written,
            forwarding: core.forwarding_times(),
        };
        page.end(&core.peers(context.now), &verdict(core, context), &extra);
        (page.into_bytes(), None)
    }

    fn page(
        mut self,
        core: &Core,
        context: &ApiContext<'_>,
        selection: &Selection,
    ) -> (Vec<u8>, Option<Self>) {
        let ApiContext { now, wall, .. } = *context;
        let peers = core.peers(now);
        let mut body = Markup::default();
        if self.next == 0 {
            body = page::begin(core, &verdict(core, context), &peers, wall);
            page::begin_apps(&mut body, selection);
        }
        let alone = selection.all() == 1;
        while let Some(name) = selection.names.get(self.next) {
            if body.size() >= CHUNK_BYTES {
                return (body.into_bytes(), Some(self));
            }
            self.next += 1;
            let (Some(app), Some(standing)) = (core.app(now, name), core.app_status(now, name))
            else {
                continue;
            };
            let app = self.add_nat_count(app);
            let standing = of_app(&standing, &peers);
            let changes = core
                .events()
                .filter(|event| event.change.of == ChangeOf::App(name.clone()));
            let changes = newest(changes, OF_ONE_APP);
            let clocks = (now, wall);
            page::app(&mut body, &app, &standing, changes, clocks, alone);
        }
        let changes = newest(core.events(), page::MOST_CHANGES);
        page::end(&mut body, selection, changes, now);
        (body.into_bytes(), None)
    }

    fn add_nat_count(&self, mut app: AppView) -> AppView {
        add_nat_count(&mut app, &self.nat);
        app
    }
}

/// The last changes, newest first.
fn newest<'a>(
    changes: impl Iterator<Item = &'a HistoryEvent>,
    most: usize,
) -> impl Iterator<Item = &'a HistoryEvent> {
    let all: Vec<&HistoryEvent> = changes.collect();
    all.into_iter().rev().take(most)
}

/// Transitions that the page shows of one app.
const OF_ONE_APP: usize = 5;
/// Bytes after which a chunk ends, once the current app is complete.
const CHUNK_BYTES: usize = 16 * 1024;
/// The most apps read for one chunk of metrics, where many have no sample.
const MAX_APPS_PER_CHUNK: usize = 256;
