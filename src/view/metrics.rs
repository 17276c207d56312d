//! The core as Prometheus text (exposition format 0.0.4).

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use super::verdict::{Condition, Verdict};
use crate::bgp::peer::StateName;
use crate::core::{AppView, ForwardingTimes, MonitorView, NatCount, PeerView};
use crate::health::Health;
use crate::path_proof::{Finding, Proof};
use crate::registry::AppState;

/// Resource usage of this process (proc_pid_stat(5)), in seconds and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_fds: u64,
    pub max_fds: u64,
    pub threads: u64,
    /// Since 1970.
    pub start_seconds: f64,
}

/// Metrics besides those of apps and peers.
#[derive(Clone, Copy, Debug)]
pub struct Extra {
    /// `None`: /proc is not readable.
    pub process: Option<Process>,
    /// `None`: Consul is not configured.
    pub consul_up: Option<bool>,
    pub reload: LastReload,
    /// The longest iteration of the event loop since start.
    pub longest_turn: Duration,
    /// Log lines dropped because standard error was not read.
    pub log_lines_dropped: u64,
    /// `None`: there is no state file.
    pub state_file_written: Option<bool>,
    pub forwarding: ForwardingTimes,
}

/// The result of the last load of the configuration, the one at start included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastReload {
    pub successful: bool,
    /// When one last succeeded.
    pub succeeded_at: SystemTime,
}

/// The content type of the text exposition format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric family with samples for each app.
pub struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Only shown while there are NAT rules.
    pub of_nat: bool,
    /// Adds the samples of one app.
    pub samples: fn(&mut MetricsText, &AppView),
}

/// The families of apps, in order.
pub const FAMILIES: [Family; 12] = [
    Family {
        name: "sidecast_app_healthy",
        kind: GAUGE,
        help: "Whether all monitors of the app pass.",
        of_nat: false,
        samples: |text, app| {
            let healthy = app.health == Health::Up;
            text.sample(&[("app", app.name.as_str())], u8::from(healthy));
        },
    },
    Family {
        name: "sidecast_app_state",
        kind: GAUGE,
        help: "1 for the state the app is in.",
        of_nat: false,
        samples: |text, app| {
            for state in AppState::ALL {
                let labels = [("app", app.name.as_str()), ("state", state.as_str())];
                text.sample(&labels, u8::from(state == app.state));
            }
        },
    },
    Family {
        name: "sidecast_app_announced",
        kind: GAUGE,
        help: "Whether the VIP is announced to at least one peer; none where another instance of the service holds it.",
        of_nat: false,
        samples: |text, app| {
            for vip in app.vips.iter().filter(|vip| !vip.standby) {
                let prefix = vip.prefix.to_string();
                let labels = [("app", app.name.as_str()), ("vip", prefix.as_str())];
                text.sample(&labels, u8::from(vip.announced));
            }
        },
    },
    Family {
        name: "sidecast_path_share",
        kind: GAUGE,
        help: "Which share of the last probes to the VIP by way of the peer came back.",
        of_nat: false,
        samples: |text, app| {
            of_paths(text, app, |text, labels, proof| {
                if let Some(share) = proof.share() {
                    text.sample(&labels, share);
                }
            });
        },
    },
    Family {
        name: "sidecast_path_state",
        kind: GAUGE,
        help: "1 for what these probes show: yes, partly, elsewhere, no, not_seen or unknown.",
        of_nat: false,
        samples: |text, app| {
            of_paths(text, app, |text, [app, vip, peer], proof| {
                for state in Finding::NAMES {
                    let holds = state == proof.finding.as_str();
                    text.sample(&[app, vip, peer, ("state", state)], u8::from(holds));
                }
            });
        },
    },
    Family {
        name: "sidecast_last_resort",
        kind: GAUGE,
        help: "Whether the app is announced although its checks fail, less attractive than any healthy one.",
        of_nat: false,
        samples: |text, app| {
            let last_resort = app.last_resort.is_some();
            text.sample(&[("app", app.name.as_str())], u8::from(last_resort));
        },
    },
    Family {
        name: "sidecast_app_held_seconds",
        kind: GAUGE,
        help: "How long damping still delays the app's announcement.",
        of_nat: false,
        samples: |text, app| {
            let held = app.held_for.unwrap_or_default();
            text.sample(&[("app", app.name.as_str())], Seconds(held));
        },
    },
    Family {
        name: "sidecast_transitions_total",
        kind: COUNTER,
        help: "Changes of an app's state.",
        of_nat: false,
        samples: |text, app| {
            for (to, count) in &app.transitions {
                text.sample(&[("app", app.name.as_str()), ("to", to.as_str())], count);
            }
        },
    },
    Family {
        name: "sidecast_nat_packets_total",
        kind: COUNTER,
        help: "First packets of NATed flows: the nat hook sees no others.",
        of_nat: true,
        samples: |text, app| of_nats(text, app, |counted| counted.packets),
    },
    Family {
        name: "sidecast_nat_bytes_total",
        kind: COUNTER,
        help: "Bytes of those packets.",
        of_nat: true,
        samples: |text, app| of_nats(text, app, |counted| counted.bytes),
    },
    Family {
        name: "sidecast_monitor_up",
        kind: GAUGE,
        help: "Whether the monitor passes, after rise and fall.",
        of_nat: false,
        samples: |text, app| {
            for monitor in &app.monitors {
                let labels = of_monitor(app, monitor);
                text.sample(&labels, u8::from(monitor.health == Health::Up));
            }
        },
    },
    Family {
        name: "sidecast_monitor_duration_seconds",
        kind: GAUGE,
        help: "How long the monitor's last check took.",
        of_nat: false,
        samples: |text, app| {
            for monitor in &app.monitors {
                let labels = of_monitor(app, monitor);
                if let Some(took) = monitor.took {
                    text.sample(&labels, Seconds(took));
                }
            }
        },
    },
];

fn of_monitor<'a>(app: &'a AppView, monitor: &'a MonitorView) -> [(&'static str, &'a str); 2] {
    [
        ("app", app.name.as_str()),
        ("monitor", monitor.label.as_str()),
    ]
}

fn of_nats(text: &mut MetricsText, app: &AppView, value: fn(&NatCount) -> u64) {
    for nat in &app.nats {
        if let Some(counted) = &nat.count {
            let spec = nat.spec.to_string();
            let labels = [("app", app.name.as_str()), ("nat", spec.as_str())];
            text.sample(&labels, value(counted));
        }
    }
}

/// Each VIP and peer with its labels.
fn of_paths(
    text: &mut MetricsText,
    app: &AppView,
    sample: fn(&mut MetricsText, [(&str, &str); 3], &Proof),
) {
    for vip in &app.vips {
        let prefix = vip.prefix.to_string();
        for path in &vip.paths {
            let peer = path.peer.to_string();
            let labels = [
                ("app", app.name.as_str()),
                ("vip", prefix.as_str()),
                ("peer", peer.as_str()),
            ];
            sample(text, labels, &path.proof);
        }
    }
}

fn of_verdict(text: &mut MetricsText, verdict: &Verdict) {
    text.family(
        "sidecast_ok",
        GAUGE,
        "Whether the verdict is ok: not starting, degraded or failing.",
    );
    text.sample(&[], u8::from(verdict.is_ok()));
    text.family(
        "sidecast_condition",
        GAUGE,
        "Whether this is wrong with an app or a peer.",
    );
    for condition in Condition::ALL {
        let holds = verdict.conditions.contains(&condition);
        text.sample(&[("reason", condition.as_str())], u8::from(holds));
    }
}

type PeerFamily = (
    &'static str,
    &'static str,
    &'static str,
    fn(&PeerView) -> u64,
);

/// Families with one number for each peer.
const OF_EACH_PEER: [PeerFamily; 4] = [
    (
        "sidecast_bgp_session_up",
        GAUGE,
        "Whether the session is established.",
        |peer| u64::from(peer.state == StateName::Established),
    ),
    (
        "sidecast_bgp_session_state",
        GAUGE,
        "1 idle, 2 connect, 3 active, 4 opensent, 5 openconfirm, 6 established.",
        |peer| peer.state.number().into(),
    ),
    (
        "sidecast_bgp_announced_prefixes",
        GAUGE,
        "Prefixes announced to the peer and not withdrawn.",
        |peer| u64::try_from(peer.announced).unwrap_or(u64::MAX),
    ),
    (
        "sidecast_bgp_flaps_total",
        COUNTER,
        "Established sessions lost.",
        |peer| peer.flaps,
    ),
];

fn of_peers(text: &mut MetricsText, peers: &[PeerView]) {
    let names: Vec<String> = peers.iter().map(|p| p.name.to_string()).collect();
    let named = || peers.iter().zip(names.iter().map(String::as_str));
    for (family, kind, help, value) in OF_EACH_PEER {
        text.family(family, kind, help);
        for (peer, name) in named() {
            text.sample(&[("peer", name)], value(peer));
        }
    }
    text.family(
        "sidecast_bgp_messages_total",
        COUNTER,
        "BGP messages by type and direction.",
    );
    for (peer, name) in named() {
        let directions = [
            ("received", peer.counters.received),
            ("sent", peer.counters.sent),
        ];
        for (direction, counts) in directions {
            for (kind, count) in counts.by_type() {
                let labels = [("peer", name), ("type", kind), ("direction", direction)];
                text.sample(&labels, count);
            }
        }
    }
    if peers.iter().any(|p| p.bfd_up.is_some()) {
        text.family(
            "sidecast_bfd_session_up",
            GAUGE,
            "Whether the peer's BFD session is up.",
        );
        for (peer, name) in named() {
            if let Some(up) = peer.bfd_up {
                text.sample(&[("peer", name)], u8::from(up));
            }
        }
    }
}

/// Names and help texts of Prometheus' client libraries.
fn of_process(text: &mut MetricsText, process: &Process) {
    text.family(
        "process_cpu_seconds_total",
        COUNTER,
        "Total user and system CPU time spent in seconds.",
    );
    text.sample(&[], process.cpu_seconds);
    for (name, help, value) in [
        (
            "process_open_fds",
            "Number of open file descriptors.",
            process.open_fds,
        ),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            process.max_fds,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            process.virtual_bytes,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            process.resident_bytes,
        ),
        (
            "process_threads",
            "Number of OS threads in the process.",
            process.threads,
        ),
    ] {
        text.family(name, GAUGE, help);
        text.sample(&[], value);
    }
    text.family(
        "process_start_time_seconds",
        GAUGE,
        "Start time of the process since unix epoch in seconds.",
    );
    text.sample(&[], format_args!("{:.2}", process.start_seconds));
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// The exposition text so far, and the current family.
#[derive(Default)]
pub struct MetricsText {
    text: String,
    name: &'static str,
}

impl MetricsText {
    /// Families before those of apps.
    pub fn begin(&mut self) {
        self.family("sidecast_build_info", GAUGE, "What is running.");
        self.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    }

    /// Samples go to this family from here on; it is declared where it begins.
    pub fn open(&mut self, family: &Family, begins: bool) {
        self.name = family.name;
        if begins {
            self.family(family.name, family.kind, family.help);
        }
    }

    /// Families after those of apps.
    pub fn end(&mut self, peers: &[PeerView], verdict: &Verdict, extra: &Extra) {
        of_verdict(self, verdict);
        of_peers(self, peers);
        self.forwarding(&extra.forwarding);
        if let Some(up) = extra.consul_up {
            self.family("sidecast_consul_up", GAUGE, "Whether Consul answers.");
            self.sample(&[], u8::from(up));
        }
        self.family(
            "sidecast_config_last_reload_successful",
            GAUGE,
            "Whether the configuration could be read the last time.",
        );
        self.sample(&[], u8::from(extra.reload.successful));
        self.family(
            "sidecast_config_last_reload_success_timestamp_seconds",
            GAUGE,
            "When the configuration was last read with success.",
        );
        let at = extra
            .reload
            .succeeded_at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.sample(&[], at.as_secs());
        self.family(
            "sidecast_loop_longest_seconds",
            GAUGE,
            "Longest iteration of the event loop since start; events that arrive during one wait for its end.",
        );
        self.sample(&[], Seconds(extra.longest_turn));
        self.family(
            "sidecast_log_lines_dropped_total",
            COUNTER,
            "Log lines dropped because standard error was not read.",
        );
        self.sample(&[], extra.log_lines_dropped);
        if let Some(written) = extra.state_file_written {
            self.family(
                "sidecast_state_file_written",
                GAUGE,
                "Whether the state file is written and up to date.",
            );
            self.sample(&[], u8::from(written));
        }
        if let Some(process) = &extra.process {
            of_process(self, process);
        }
    }

    /// Each bucket holds what those before it do (Prometheus' histograms).
    fn forwarding(&mut self, times: &ForwardingTimes) {
        const NAME: &str = "sidecast_announce_to_forward_seconds";
        let help = "From an announcement to the first probe that came back.";
        self.text
            .push_str(&format!("# HELP {NAME} {help}\n# TYPE {NAME} histogram\n"));
        let bounds = ForwardingTimes::BOUNDS.map(Duration::from_millis);
        let finite = bounds.into_iter().zip(times.within);
        let finite = finite.map(|(bound, count)| (Seconds(bound).to_string(), count));
        for (bound, count) in finite.chain([("+Inf".to_owned(), times.count)]) {
            let bucket = format!("{NAME}_bucket{{le=\"{bound}\"}} {count}\n");
            self.text.push_str(&bucket);
        }
        let (sum, count) = (Seconds(times.sum), times.count);
        self.text
            .push_str(&format!("{NAME}_sum {sum}\n{NAME}_count {count}\n"));
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        self.text
            .push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.text.push_str(self.name);
        for (index, (name, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            push_escaped(&mut self.text, text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// A label's value: backslash, quote and newline are escaped, nothing else is.
fn push_escaped(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs_f64())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::core::Summary;
    use crate::view::sample;
    use crate::view::verdict::Circumstances;

    /// Every family, each with a sample at least.
    pub fn every_family() -> String {
        let extra = Extra {
            process: Some(Process {
                cpu_seconds: 1.5,
                resident_bytes: 3_000_000,
                start_seconds: 1_700_000_000.25,
                ..Process::default()
            }),
            consul_up: Some(true),
            longest_turn: Duration::from_micros(1500),
            reload: LastReload {
                successful: false,
                succeeded_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            },
            log_lines_dropped: 3,
            state_file_written: Some(false),
            forwarding: ForwardingTimes {
                within: [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
                count: 2,
                sum: Duration::from_millis(12_017),
            },
        };
        let peers = [sample::established(), sample::connecting()];
        let mut text = MetricsText::default();
        text.begin();
        for family in &FAMILIES {
            text.open(family, true);
            (family.samples)(&mut text, &sample::awkward());
        }
        let circumstances = Circumstances {
            starting: false,
            no_peer: None,
            consul_lost: false,
            reload_failed: true,
            summary: Summary::default(),
        };
        let verdict = Verdict::new(&peers, [], &circumstances);
        text.end(&peers, &verdict, &extra);
        text.text
    }

    #[test]
    fn every_documented_metric_is_there_and_texts_are_escaped() {
        let text = every_family();
        let app = r#"app="a\"b\\c</script>""#;
        for line in [
            "sidecast_loop_longest_seconds 0.0015".to_owned(),
            "sidecast_announce_to_forward_seconds_bucket{le=\"0.01\"} 0".to_owned(),
            "sidecast_announce_to_forward_seconds_bucket{le=\"0.025\"} 1".to_owned(),
            "sidecast_announce_to_forward_seconds_bucket{le=\"10\"} 1".to_owned(),
            "sidecast_announce_to_forward_seconds_bucket{le=\"+Inf\"} 2".to_owned(),
            "sidecast_announce_to_forward_seconds_sum 12.017".to_owned(),
            "sidecast_announce_to_forward_seconds_count 2".to_owned(),
            format!("sidecast_path_share{{{app},vip=\"192.0.2.53/32\",peer=\"10.0.0.1\"}} 0.4375"),
            format!(
                "sidecast_path_state{{{app},vip=\"192.0.2.53/32\",peer=\"10.0.0.1\",state=\"partly\"}} 1"
            ),
            format!(
                "sidecast_path_state{{{app},vip=\"192.0.2.53/32\",peer=\"10.0.0.1\",state=\"no\"}} 0"
            ),
            "sidecast_log_lines_dropped_total 3".to_owned(),
            "sidecast_state_file_written 0".to_owned(),
            format!("sidecast_app_healthy{{{app}}} 1"),
            format!("sidecast_app_state{{{app},state=\"held_down\"}} 1"),
            format!("sidecast_app_announced{{{app},vip=\"192.0.2.53/32\"}} 0"),
            format!("sidecast_app_held_seconds{{{app}}} 1.25"),
            format!("sidecast_monitor_up{{{app},monitor=\"line\\nbreak\"}} 0"),
            format!("sidecast_monitor_duration_seconds{{{app},monitor=\"line\\nbreak\"}} 0.0015"),
            format!("sidecast_transitions_total{{{app},to=\"up\"}} 6"),
            format!("sidecast_nat_packets_total{{{app},nat=\"udp:53:8053\"}} 7"),
            format!("sidecast_nat_bytes_total{{{app},nat=\"udp:53:8053\"}} 420"),
            "sidecast_bgp_session_up{peer=\"10.0.0.1\"} 1".to_owned(),
            "sidecast_bgp_session_up{peer=\"fe80::1%eth0\"} 0".to_owned(),
            "sidecast_bgp_session_state{peer=\"10.0.0.1\"} 6".to_owned(),
            "sidecast_bgp_announced_prefixes{peer=\"10.0.0.1\"} 2".to_owned(),
            "sidecast_bgp_flaps_total{peer=\"10.0.0.1\"} 1".to_owned(),
            "sidecast_bgp_messages_total{peer=\"10.0.0.1\",type=\"update\",direction=\"sent\"} 3"
                .to_owned(),
            "sidecast_bfd_session_up{peer=\"10.0.0.1\"} 1".to_owned(),
            "sidecast_ok 0".to_owned(),
            "sidecast_condition{reason=\"reload\"} 1".to_owned(),
            "sidecast_condition{reason=\"peer_down\"} 1".to_owned(),
            "sidecast_condition{reason=\"family\"} 0".to_owned(),
            "sidecast_consul_up 1".to_owned(),
            "sidecast_config_last_reload_successful 0".to_owned(),
            "sidecast_config_last_reload_success_timestamp_seconds 1700000000".to_owned(),
            "process_cpu_seconds_total 1.5".to_owned(),
            "process_resident_memory_bytes 3000000".to_owned(),
            "process_start_time_seconds 1700000000.25".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
