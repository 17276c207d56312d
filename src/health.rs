//! From check results to health: `rise` passes or `fall` failures in a row.

use std::fmt;

/// The result of one check. The text is the reason, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passed; the text may hold a warning or the last line of output, and is often empty.
    Pass(String),
    Fail(String),
    /// Failed by a fact: the kernel has no listener, so no service could answer a client. Other failures may be an
    /// error of the check.
    NoListener(String),
    /// Failed because an operator has taken the service out (Consul's maintenance mode): a fact too.
    TakenOut(String),
    /// The check itself could not be performed (Consul unreachable, no sockets left), so health stays as it
    /// was.
    Unavailable(String),
}

impl Outcome {
    /// A pass without a text.
    pub fn pass() -> Self {
        Self::Pass(String::new())
    }

    /// A failure and its reason.
    pub fn fail(message: impl fmt::Display) -> Self {
        Self::Fail(message.to_string())
    }

    /// A check that could not be made, and why.
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::Unavailable(message.to_string())
    }

    /// Whether the check passed.
    pub fn is_pass(&self) -> bool {
        matches!(self, Self::Pass(_))
    }

    /// Whether the check failed.
    pub fn is_fail(&self) -> bool {
        matches!(self, Self::Fail(_)) || self.is_fact()
    }

    /// A failure that is a fact, which cannot be an error of the check.
    pub fn is_fact(&self) -> bool {
        matches!(self, Self::NoListener(_) | Self::TakenOut(_))
    }

    /// Passed, and what was found is a socket on the wildcard address.
    pub fn is_on_wildcard(&self) -> bool {
        matches!(self, Self::Pass(message) if message == ON_WILDCARD)
    }

    /// The reason; may be empty.
    pub fn message(&self) -> &str {
        match self {
            Self::Pass(message)
            | Self::Fail(message)
            | Self::NoListener(message)
            | Self::TakenOut(message)
            | Self::Unavailable(message) => message,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Pass(_) => "pass",
            Self::Fail(_) | Self::NoListener(_) | Self::TakenOut(_) => "fail",
            Self::Unavailable(_) => "unavailable",
        };
        match self.message() {
            "" => f.write_str(word),
            message => write!(f, "{word}: {message}"),
        }
    }
}

/// The explanation for a UDP service on the wildcard address: the kernel chooses the address that it answers from,
/// unless the service does.
pub const ON_WILDCARD: &str = "on the wildcard address";

/// A monitor's health, after `rise` and `fall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// No result has decided yet: never announced.
    #[default]
    Unknown,
    Up,
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// Counts consecutive results that disagree with the current health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    rise: u32,
    fall: u32,
    health: Health,
    /// Results in a row that disagree with `health`.
    opposing: u32,
}

impl Counter {
    /// Passes it takes to come up, and failures to go down; 0 counts as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            health: Health::Unknown,
            opposing: 0,
        }
    }

    /// The current health.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Counts one result. Returns the new health if it changed.
    ///
    /// The very first failure is `Down` at once: before it nothing was announced, so there is
    /// nothing that `fall` could protect. Coming up always takes `rise` passes.
    pub fn record(&mut self, outcome: &Outcome) -> Option<Health> {
        let (found, needed) = match (outcome, self.health) {
            (Outcome::Unavailable(_), _) => return None,
            (Outcome::Pass(_), _) => (Health::Up, self.rise),
            (_, Health::Unknown) => (Health::Down, 1),
            _ => (Health::Down, self.fall),
        };
        if found == self.health {
            self.opposing = 0;
            return None;
        }
        self.opposing = self.opposing.saturating_add(1);
        if self.opposing < needed {
            return None;
        }
        self.health = found;
        self.opposing = 0;
        Some(found)
    }

    /// Whether the last result disagreed but has not decided yet: the time for `fast_interval`.
    pub fn is_changing(&self) -> bool {
        self.opposing > 0
    }

    /// Takes new limits without forgetting the health (a reload that changed only them).
    pub fn set_limits(&mut self, rise: u32, fall: u32) {
        self.rise = rise.max(1);
        self.fall = fall.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(counter: &mut Counter, results: &str) -> Vec<Option<Health>> {
        let outcome = |c| match c {
            '+' => Outcome::pass(),
            '-' => Outcome::fail("no"),
            _ => Outcome::unavailable("away"),
        };
        results
            .chars()
            .map(|c| counter.record(&outcome(c)))
            .collect()
    }

    #[test]
    fn with_rise_and_fall_of_one_every_result_decides() {
        let mut counter = Counter::new(1, 1);
        assert_eq!(
            run(&mut counter, "++--+"),
            [
                Some(Health::Up),
                None,
                Some(Health::Down),
                None,
                Some(Health::Up)
            ]
        );
        assert_eq!(Counter::new(0, 0), Counter::new(1, 1));
    }

    #[test]
    fn a_run_must_be_unbroken_to_decide() {
        let mut counter = Counter::new(2, 3);
        assert_eq!(run(&mut counter, "++").last(), Some(&Some(Health::Up)));
        assert!(run(&mut counter, "--+--").iter().all(Option::is_none));
        assert!(counter.is_changing());
        assert_eq!(run(&mut counter, "-"), [Some(Health::Down)]);
        assert!(!counter.is_changing());
        assert!(run(&mut counter, "+-+").iter().all(Option::is_none));
        assert_eq!(run(&mut counter, "+"), [Some(Health::Up)]);
    }

    #[test]
    fn the_first_failure_is_down_at_once_and_the_first_pass_takes_rise() {
        let mut counter = Counter::new(3, 3);
        assert_eq!(run(&mut counter, "-"), [Some(Health::Down)]);
        let mut counter = Counter::new(3, 3);
        assert!(run(&mut counter, "++").iter().all(Option::is_none));
        assert_eq!(counter.health(), Health::Unknown);
        assert_eq!(run(&mut counter, "-"), [Some(Health::Down)]);
    }

    #[test]
    fn a_check_that_could_not_be_made_changes_nothing() {
        let mut counter = Counter::new(1, 2);
        run(&mut counter, "+-");
        let before = counter.clone();
        assert_eq!(run(&mut counter, "???"), [None, None, None]);
        assert_eq!(counter, before);
        assert_eq!(run(&mut counter, "-"), [Some(Health::Down)]);
    }
}
