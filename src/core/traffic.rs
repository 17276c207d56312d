//! The end of a drain: the traffic of VIPs that drain is watched while it lasts.

use std::net::IpAddr;
use std::time::Instant;

use log::info;

use super::{Core, Output};
use crate::net::Prefix;
use crate::registry::PathSeen;

impl Core {
    /// Has the VIPs watched that a drain waits for. `vips_changed`: a VIP came or went.
    pub(super) fn watch_traffic(&mut self, vips_changed: bool) {
        if self.registry.take_watched_changed(vips_changed) {
            let vips = self.registry.watched_vips();
            self.outputs.push_back(Output::WatchTraffic { vips });
        }
    }

    /// What was seen at `at` of the VIPs that are watched, or why nothing can be seen.
    pub(super) fn handle_traffic(
        &mut self,
        at: Instant,
        last_packets: Result<Vec<(IpAddr, Instant)>, String>,
    ) {
        match last_packets {
            Ok(last_packets) => {
                let vips = self.registry.watched_vips().into_iter();
                let path = |vip: Prefix| {
                    // A route that stays, as `when_draining` may have it, is still in use. One whose withdraw waits to
                    // be sent is not meant to be.
                    if self.desired(&vip, None).route.is_some() {
                        return None;
                    }
                    let (returns, ended) = (self.path_returns(&vip)?, self.path_stopped_at(&vip));
                    Some((vip, PathSeen { returns, ended }))
                };
                let paths: Vec<(Prefix, PathSeen)> = vips.filter_map(path).collect();
                self.registry.observe_traffic(at, &last_packets, &paths);
            }
            Err(why) => {
                if !std::mem::replace(&mut self.traffic_unseen, true) {
                    info!(
                        "drains take their whole drain_time, since the end of traffic cannot be seen: {why}"
                    );
                }
                self.registry.observe_no_traffic();
            }
        }
    }
}
