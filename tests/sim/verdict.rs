//! The verdict against the model, both ways: it is never ok for long while a router lacks a route that must be
//! there, nor without the condition that explains it, and never anything else for long once nothing is wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sidecast::app::RouteAction;
use sidecast::bgp::PathAttributes;
use sidecast::bgp::peer::StateName;
use sidecast::core::{AppState, AppView};
use sidecast::net::{Community, PeerName, Prefix};
use sidecast::small_set::SmallSet;
use sidecast::view::verdict::{Condition, Level, Verdict};

use crate::world::{Router, World};

/// Since when the verdict and the model do not agree.
#[derive(Debug, Default)]
pub struct Disagreement {
    looked_at: Option<Instant>,
    /// The verdict is ok, and a router lacks a route.
    ok: Option<Instant>,
    /// The same, and only where the link is cut.
    ok_behind_a_cut: Option<Instant>,
    /// The verdict is not ok, and nothing is wrong.
    other: Option<Instant>,
    /// A router has a route of last resort, and the verdict does not report it.
    hides: Option<Instant>,
    /// A router lacks a route, and no condition says why.
    unexplained: Option<Instant>,
}

/// VIPs that must be announced, each to these peers; an empty set: to all.
type Required = BTreeMap<Prefix, SmallSet<PeerName>>;

impl Router {
    fn has_all(&self, required: &Required) -> bool {
        let mut ours = required
            .iter()
            .filter(|(_, peers)| self.name.is_among(peers));
        ours.all(|(vip, _)| self.rib.contains_key(vip))
    }
}

impl World {
    /// Asks for the verdict, twice a second.
    pub fn look_at_verdict(&mut self) {
        let looked_at = self.disagreement.looked_at;
        if looked_at.is_some_and(|at| self.now - at < EVERY) {
            return;
        }
        self.acknowledge();
        let verdict = Verdict::of(&self.core, self.now, false);
        let required = self.required();
        let lacks = |cut: bool| {
            let mut routers = self.routers.iter().filter(|router| router.cut == cut);
            routers.any(|router| !router.has_all(&required))
        };
        let (lacking, lacking_behind_a_cut) = (lacks(false), lacks(true));
        let well = self.is_well(&required);
        let hides = self.hides_last_resort(&verdict);
        let unexplained = self.is_unexplained(&verdict, &required);
        let ok = verdict.is_ok();
        let now = self.now;
        let since = |holds: bool, before: Option<Instant>| holds.then(|| before.unwrap_or(now));
        let before = &self.disagreement;
        self.disagreement = Disagreement {
            looked_at: Some(now),
            ok: since(ok && lacking, before.ok),
            ok_behind_a_cut: since(ok && lacking_behind_a_cut, before.ok_behind_a_cut),
            other: since(!ok && well, before.other),
            hides: since(hides, before.hides),
            unexplained: since(unexplained, before.unexplained),
        };
        let path_alone = verdict.conditions.iter().all(|c| *c == Condition::PathNo);
        let other = BOUND + if path_alone { PROBED } else { Duration::ZERO };
        for (since, bound) in [
            (self.disagreement.ok, BOUND),
            (self.disagreement.ok_behind_a_cut, BOUND + UNHEARD),
            (self.disagreement.other, other),
            (self.disagreement.hides, BOUND),
            (self.disagreement.unexplained, BOUND),
        ] {
            assert!(
                since.is_none_or(|since| now - since <= bound),
                "for {bound:?} the verdict has been: {}, {:?}\nand these must be there: {required:?}\n{:?}\n{}",
                verdict.line(),
                verdict.conditions,
                self.disagreement,
                self.trace.join("\n")
            );
        }
    }

    /// A router has a route of last resort, and the verdict does not report it.
    fn hides_last_resort(&self, verdict: &Verdict) -> bool {
        let mut apps = self.core.apps(self.now, None);
        let is = |view: &AppView| view.last_resort.is_some() && !view.draining;
        let says = verdict.conditions.contains(&Condition::LastResort);
        assert_eq!(
            says,
            apps.any(|view| is(&view)),
            "{}\n{}",
            verdict.line(),
            self.trace.join("\n")
        );
        assert!(!says || matches!(verdict.level, Level::Failing | Level::Starting));
        let sick = |route: &PathAttributes| route.communities.contains(&GRACEFUL_SHUTDOWN);
        let mut routers = self.routers.iter().filter(|router| !router.cut);
        !says && routers.any(|router| router.rib.values().any(sick))
    }

    /// A router lacks a required route, and no condition names the VIP: "a peer is down" does not name the service.
    /// Behind a cut link the model knows less than the core.
    fn is_unexplained(&self, verdict: &Verdict, required: &Required) -> bool {
        use Condition::{AppDown, AppInvalid, AppPending, HeldDown, LastResort, NotAnnounced};
        let nowhere = [
            NotAnnounced,
            Condition::Family,
            AppDown,
            AppInvalid,
            AppPending,
            HeldDown,
            LastResort,
        ];
        let in_part = [Condition::SomePeers, Condition::Family];
        let explained = |vip: &Prefix| {
            let elsewhere = self
                .routers
                .iter()
                .any(|router| router.rib.contains_key(vip));
            let mut reasons = match elsewhere {
                true => in_part.iter(),
                false => nowhere.iter(),
            };
            reasons.any(|reason| verdict.conditions.contains(reason))
        };
        let lacks = |router: &Router, (vip, peers): (&Prefix, &SmallSet<PeerName>)| {
            router.name.is_among(peers) && !router.rib.contains_key(vip) && !explained(vip)
        };
        let mut routers = self.routers.iter();
        let seen = self.routers.iter().all(|router| !router.cut);
        seen && routers.any(|router| required.iter().any(|required| lacks(router, required)))
    }

    /// The routes that routers must have by the model: the VIPs of apps whose services run and which are not
    /// drained, each with the peers that its app names; not those of an app of which another holds a VIP.
    fn required(&self) -> Required {
        let mut required = Required::new();
        for view in self.core.apps(self.now, None) {
            let definition = self.core.definition(&view.name).expect("it is there");
            let lives = definition.monitors.iter().all(|monitor| {
                let service = self.services.get(&monitor.spec.to_string());
                service.is_none_or(|service| *service == Some(true))
            });
            let stays = !view.draining || definition.when_draining != RouteAction::Withdraw;
            let held = view.state == AppState::Invalid && view.why.contains("is held by");
            if lives && stays && !held {
                let peers = &definition.options.peers;
                required.extend(view.vips.iter().map(|vip| (vip.prefix, peers.clone())));
            }
        }
        required
    }

    /// Nothing is wrong in the model: services run, sessions are up and negotiated the families they need, and no two
    /// apps claim the same VIP.
    fn is_well(&self, required: &Required) -> bool {
        let alive = self.services.values().all(|service| *service == Some(true));
        let announced_to = self.routers.iter().all(|router| {
            router.has_all(required) && !router.cut && router.state() == StateName::Established
        });
        let mut wanted: Vec<Prefix> = self
            .core
            .apps(self.now, None)
            .flat_map(|view| view.vips.into_iter().map(|vip| vip.prefix))
            .collect();
        wanted.sort();
        let all = wanted.len();
        wanted.dedup();
        let free = self.core.config().agent.allowed_vips.is_none();
        alive && announced_to && all == wanted.len() && free
    }
}

const GRACEFUL_SHUTDOWN: Community = Community::GRACEFUL_SHUTDOWN;
const EVERY: Duration = Duration::from_millis(500);
/// How long the verdict may be wrong.
const BOUND: Duration = Duration::from_secs(5);
/// A router that says no is asked again within the interval of the path's probes.
const PROBED: Duration = Duration::from_secs(30);
/// Behind a cut link nothing is known before something is sent, a KEEPALIVE every 10 s, and is not acknowledged
/// for 3 s.
const UNHEARD: Duration = Duration::from_secs(13);
