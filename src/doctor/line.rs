//! One line: what was looked at, what was found, and what to do about it.

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Fault,
    /// It could not be looked at, or what was seen proves nothing.
    Unknown,
    Ok,
}

impl Mark {
    /// All marks, worst first.
    pub const ALL: [Self; 3] = [Self::Fault, Self::Unknown, Self::Ok];

    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Unknown => "unknown",
            Self::Ok => "ok",
        }
    }

    /// As the text has it.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Fault => "✗",
            Self::Unknown => "?",
            Self::Ok => "✓",
        }
    }
}

/// The layers, in the order of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Sidecast,
    Configuration,
    Capability,
    Kernel,
    Interface,
    RpFilter,
    Tcp,
    Speaker,
    Session,
    App,
    Monitor,
    Vip,
    Route,
    Path,
    Consul,
}

impl Topic {
    /// The first word of its lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecast => "sidecast",
            Self::Configuration => "config",
            Self::Capability => "capability",
            Self::Kernel => "kernel",
            Self::Interface => "interface",
            Self::RpFilter => "rp_filter",
            Self::Tcp => "tcp",
            Self::Speaker => "speaker",
            Self::Session => "session",
            Self::App => "app",
            Self::Monitor => "monitor",
            Self::Vip => "vip",
            Self::Route => "route",
            Self::Path => "path",
            Self::Consul => "consul",
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub topic: Topic,
    pub mark: Mark,
    pub text: String,
    /// The next thing to do; never `None` for a fault.
    pub next: Option<String>,
}

impl Line {
    /// A line without a fault.
    pub fn ok(topic: Topic, text: impl Into<String>) -> Self {
        Self {
            topic,
            mark: Mark::Ok,
            text: text.into(),
            next: None,
        }
    }

    /// A line with a fault, and what to do next.
    pub fn fault(topic: Topic, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            mark: Mark::Fault,
            next: Some(next.into()),
            ..Self::ok(topic, text)
        }
    }

    /// A line whose result is unknown.
    pub fn unknown(topic: Topic, text: impl Into<String>) -> Self {
        Self {
            mark: Mark::Unknown,
            ..Self::ok(topic, text)
        }
    }

    /// With the next thing to do.
    #[must_use]
    pub fn then(self, next: impl Into<String>) -> Self {
        Self {
            next: Some(next.into()),
            ..self
        }
    }
}
