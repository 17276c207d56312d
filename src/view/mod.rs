//! What the outside sees of the core: JSON, Prometheus text, the status page.

pub mod time;
