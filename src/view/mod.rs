//! Views of the core: JSON, Prometheus text, the status page.

pub mod drain;
pub mod json;
pub mod metrics;
pub mod page;
pub mod time;
pub mod verdict;

#[cfg(test)]
#[path = "../../tests/unit/sample.rs"]
pub mod sample;
