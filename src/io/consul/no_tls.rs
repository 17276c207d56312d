//! In a build without TLS: the configuration refuses such an address already.

use crate::config::Consul;
use crate::consul::Answer;
use std::io;
use std::time::Duration;

pub(super) struct Client;

impl Client {
    pub(super) fn new(_: &Consul) -> Self {
        Self
    }

    pub(super) fn forget(&self) {}

    pub(super) async fn get(
        &self,
        _: String,
        _: Option<String>,
        _: Duration,
    ) -> io::Result<Answer> {
        Err(io::Error::other("this sidecast was built without TLS"))
    }
}
