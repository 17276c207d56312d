//! What TLS to Consul needs.

use crate::config::Consul;
use crate::io::stream::Stream;
use crate::io::tls::{Config, Files};
use std::cell::{Cell, RefCell};
use std::io;

/// The files are read at the first request, and again after every failure and reload: they may have been
/// renewed.
pub(super) struct Client {
    files: Files,
    config: RefCell<Option<Config>>,
    /// How often the files were to be read anew.
    renewals: Cell<u64>,
}

impl Client {
    pub(super) fn new(settings: &Consul) -> Self {
        Self {
            files: Files {
                ca: settings.ca_file.clone(),
                identity: settings.cert_file.clone().zip(settings.key_file.clone()),
            },
            config: RefCell::default(),
            renewals: Cell::new(0),
        }
    }

    /// The next request reads the files anew.
    pub(super) fn forget(&self) {
        self.config.replace(None);
        self.renewals.set(self.renewals.get() + 1);
    }

    pub(super) async fn open(&self, host: &str, stream: Stream) -> io::Result<Stream> {
        let known = self.config.borrow().clone();
        let config = match known {
            Some(config) => config,
            None => self.read().await?,
        };
        config.open(host, stream).await
    }

    async fn read(&self) -> io::Result<Config> {
        let renewals = self.renewals.get();
        let files = self.files.clone();
        let config = smol::unblock(move || Config::read(&files)).await?;
        // Since a renewal meanwhile the files may hold something else.
        if renewals == self.renewals.get() {
            self.config.replace(Some(config.clone()));
        }
        Ok(config)
    }
}
