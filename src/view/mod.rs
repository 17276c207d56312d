//! What the outside sees of the core: JSON, Prometheus text, the status page.

pub mod json;
pub mod metrics;
pub mod page;
pub mod time;

#[cfg(test)]
#[path = "../../tests/unit/sample.rs"]
mod sample;
