//! The core as Prometheus text (exposition format 0.0.4).

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use crate::bgp::peer::StateName;
use crate::core::{AppView, Counted, MonitorView, PeerView};
use crate::health::Health;
use crate::registry::AppState;

/// What the kernel says of this process (proc_pid_stat(5)), in seconds and bytes.
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

/// What is shown besides apps and peers.
#[derive(Clone, Copy, Debug)]
pub struct Extra {
    /// `None`: /proc is not readable.
    pub process: Option<Process>,
    /// `None`: Consul is not configured.
    pub consul_up: Option<bool>,
    pub reload: Reload,
    /// The longest turn of the loop since the start.
    pub longest_turn: Duration,
    /// Lines of the log that nobody took.
    pub log_lines_dropped: u64,
    /// `None`: there is no state file.
    pub state_file_written: Option<bool>,
}

/// How the last reading of the configuration ended; the one at start counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    pub successful: bool,
    /// When one last succeeded.
    pub succeeded_at: SystemTime,
}

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A family whose samples are of apps.
pub struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Only where NAT is in the kernel.
    pub of_nat: bool,
    /// Adds one app's.
    pub samples: fn(&mut Page, &AppView),
}

/// The families of apps, in order.
pub const FAMILIES: [Family; 9] = [
    Family {
        name: "sidecast_app_healthy",
        kind: GAUGE,
        help: "Whether all monitors of the app pass.",
        of_nat: false,
        samples: |page, app| {
            let healthy = app.health == Health::Up;
            page.sample(&[("app", app.name.as_str())], u8::from(healthy));
        },
    },
    Family {
        name: "sidecast_app_state",
        kind: GAUGE,
        help: "1 for the state the app is in.",
        of_nat: false,
        samples: |page, app| {
            for state in AppState::ALL {
                let labels = [("app", app.name.as_str()), ("state", state.as_str())];
                page.sample(&labels, u8::from(state == app.state));
            }
        },
    },
    Family {
        name: "sidecast_app_announced",
        kind: GAUGE,
        help: "Whether the VIP is announced to at least one peer.",
        of_nat: false,
        samples: |page, app| {
            for vip in &app.vips {
                let prefix = vip.prefix.to_string();
                let labels = [("app", app.name.as_str()), ("vip", prefix.as_str())];
                page.sample(&labels, u8::from(vip.announced));
            }
        },
    },
    Family {
        name: "sidecast_app_held_seconds",
        kind: GAUGE,
        help: "How long damping still keeps the app from coming back.",
        of_nat: false,
        samples: |page, app| {
            let held = app.held_for.unwrap_or_default();
            page.sample(&[("app", app.name.as_str())], Seconds(held));
        },
    },
    Family {
        name: "sidecast_transitions_total",
        kind: COUNTER,
        help: "Changes of an app's state.",
        of_nat: false,
        samples: |page, app| {
            for (to, count) in &app.transitions {
                page.sample(&[("app", app.name.as_str()), ("to", to.as_str())], count);
            }
        },
    },
    Family {
        name: "sidecast_nat_packets_total",
        kind: COUNTER,
        help: "First packets of flows that NAT sent on: the kernel counts no others.",
        of_nat: true,
        samples: |page, app| of_nats(page, app, |counted| counted.packets),
    },
    Family {
        name: "sidecast_nat_bytes_total",
        kind: COUNTER,
        help: "Bytes of those packets.",
        of_nat: true,
        samples: |page, app| of_nats(page, app, |counted| counted.bytes),
    },
    Family {
        name: "sidecast_monitor_up",
        kind: GAUGE,
        help: "Whether the monitor passes, after rise and fall.",
        of_nat: false,
        samples: |page, app| {
            for monitor in &app.monitors {
                let labels = of_monitor(app, monitor);
                page.sample(&labels, u8::from(monitor.health == Health::Up));
            }
        },
    },
    Family {
        name: "sidecast_monitor_duration_seconds",
        kind: GAUGE,
        help: "How long the monitor's last check took.",
        of_nat: false,
        samples: |page, app| {
            for monitor in &app.monitors {
                let labels = of_monitor(app, monitor);
                if let Some(took) = monitor.took {
                    page.sample(&labels, Seconds(took));
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

fn of_nats(page: &mut Page, app: &AppView, value: fn(&Counted) -> u64) {
    for nat in &app.nats {
        if let Some(counted) = &nat.counted {
            let spec = nat.spec.to_string();
            let labels = [("app", app.name.as_str()), ("nat", spec.as_str())];
            page.sample(&labels, value(counted));
        }
    }
}

fn of_peers(page: &mut Page, peers: &[PeerView]) {
    let names: Vec<String> = peers.iter().map(|p| p.name.to_string()).collect();
    let named = || peers.iter().zip(names.iter().map(String::as_str));
    page.family(
        "sidecast_bgp_session_up",
        GAUGE,
        "Whether the session is established.",
    );
    for (peer, name) in named() {
        page.sample(
            &[("peer", name)],
            u8::from(peer.state == StateName::Established),
        );
    }
    page.family(
        "sidecast_bgp_session_state",
        GAUGE,
        "1 idle, 2 connect, 3 active, 4 opensent, 5 openconfirm, 6 established.",
    );
    for (peer, name) in named() {
        page.sample(&[("peer", name)], peer.state.number());
    }
    page.family(
        "sidecast_bgp_announced_prefixes",
        GAUGE,
        "Prefixes announced to the peer and not withdrawn.",
    );
    for (peer, name) in named() {
        page.sample(&[("peer", name)], peer.announced);
    }
    page.family(
        "sidecast_bgp_flaps_total",
        COUNTER,
        "Established sessions lost.",
    );
    for (peer, name) in named() {
        page.sample(&[("peer", name)], peer.flaps);
    }
    page.family(
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
                page.sample(&labels, count);
            }
        }
    }
    if peers.iter().any(|p| p.bfd_up.is_some()) {
        page.family(
            "sidecast_bfd_session_up",
            GAUGE,
            "Whether the peer's BFD session is up.",
        );
        for (peer, name) in named() {
            if let Some(up) = peer.bfd_up {
                page.sample(&[("peer", name)], u8::from(up));
            }
        }
    }
}

/// Named and described as Prometheus' own client libraries do.
fn of_process(page: &mut Page, process: &Process) {
    page.family(
        "process_cpu_seconds_total",
        COUNTER,
        "Total user and system CPU time spent in seconds.",
    );
    page.sample(&[], process.cpu_seconds);
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
        page.family(name, GAUGE, help);
        page.sample(&[], value);
    }
    page.family(
        "process_start_time_seconds",
        GAUGE,
        "Start time of the process since unix epoch in seconds.",
    );
    page.sample(&[], format_args!("{:.2}", process.start_seconds));
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// The text so far, and the family that samples go to.
#[derive(Default)]
pub struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    /// What comes before the families of apps.
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

    /// What comes behind the families of apps.
    pub fn end(&mut self, peers: &[PeerView], extra: &Extra) {
        of_peers(self, peers);
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
            "The longest turn of the loop since the start: what arrives meanwhile waits for its end.",
        );
        self.sample(&[], Seconds(extra.longest_turn));
        self.family(
            "sidecast_log_lines_dropped_total",
            COUNTER,
            "Lines of the log that nobody took from standard error.",
        );
        self.sample(&[], extra.log_lines_dropped);
        if let Some(written) = extra.state_file_written {
            self.family(
                "sidecast_state_file_written",
                GAUGE,
                "Whether the state file has what is to outlive a restart.",
            );
            self.sample(&[], u8::from(written));
        }
        if let Some(process) = &extra.process {
            of_process(self, process);
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

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
mod tests {
    use super::*;
    use crate::view::sample;

    #[test]
    fn every_name_of_the_contract_is_there_and_texts_are_escaped() {
        let extra = Extra {
            process: Some(Process {
                cpu_seconds: 1.5,
                resident_bytes: 3_000_000,
                start_seconds: 1_700_000_000.25,
                ..Process::default()
            }),
            consul_up: Some(true),
            longest_turn: Duration::from_micros(1500),
            reload: Reload {
                successful: false,
                succeeded_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            },
            log_lines_dropped: 3,
            state_file_written: Some(false),
        };
        let peers = [sample::established(), sample::connecting()];
        let mut page = Page::default();
        page.begin();
        for family in &FAMILIES {
            page.open(family, true);
            (family.samples)(&mut page, &sample::awkward());
        }
        page.end(&peers, &extra);
        let text = page.text;
        let app = r#"app="a\"b\\c</script>""#;
        for line in [
            "sidecast_loop_longest_seconds 0.0015".to_owned(),
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
