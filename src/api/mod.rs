//! What the outside may ask, and what it is answered: routing, policy and wording over the core.

mod message;

pub use message::{JSON, Method, Request, RequestError, Response, TEXT, Via};
