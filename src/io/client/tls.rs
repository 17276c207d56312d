//! TLS client settings (RFC 5246, RFC 8446): trusted authorities and client certificate, by rustls with ring.
//!
//! Left out: ALPN, as HTTP/1.1 needs none.

use crate::io::exhaustion::is_out_of_resources;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// Files and options of a TLS client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate authorities; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The server's certificate is not verified.
    pub insecure: bool,
}

/// Identifies a version of a file: device, inode, size, mtime and ctime.
pub(super) type FileStamp = [i128; 5];

impl TlsFiles {
    /// The stamps of all files in use; `None` for one that cannot be read.
    pub(super) fn stamp(&self) -> Vec<Option<FileStamp>> {
        let (ca, system) = match (&self.ca, self.insecure) {
            (_, true) => (None, Vec::new()),
            (Some(ca), false) => (Some(ca.clone()), Vec::new()),
            (None, false) => (None, bundles().collect()),
        };
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let files = ca.into_iter().chain(system).chain(identity.cloned());
        files.map(|path| stamp_of(&path).ok()).collect()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// If a configured file cannot be read, or key and certificate do not match, as during a renewal; ureq
    /// would panic.
    pub(super) fn read(&self) -> io::Result<TlsConfig> {
        let provider = default_provider();
        let identity = match &self.identity {
            None => None,
            Some((cert, key)) => {
                let (chain, pem) = (certificates(cert)?, read(key)?);
                let known = |_| at(key, "holds no private key");
                let der = PrivateKeyDer::from_pem_slice(&pem).map_err(known)?;
                let ders = chain.iter().map(|c| CertificateDer::from(c.der().to_vec()));
                CertifiedKey::from_der(ders.collect(), der, &provider)
                    .map_err(|error| at(cert, error))?;
                let key = PrivateKey::from_pem(&pem).map_err(|error| at(key, error))?;
                Some(ClientCert::new_with_certs(&chain, key))
            }
        };
        let roots = match &self.ca {
            _ if self.insecure => Vec::new(),
            Some(path) => certificates(path)?,
            None => system_roots(|path| fs::read(path))?,
        };
        Ok(TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(provider))
            .disable_verification(self.insecure)
            .client_cert(identity)
            .root_certs(match roots.is_empty() {
                true => RootCerts::WebPki,
                false => RootCerts::new_with_certs(&roots),
            })
            .build())
    }
}

fn stamp_of(path: &Path) -> io::Result<FileStamp> {
    let meta = fs::metadata(path)?;
    let nanoseconds =
        |seconds: i64, part: i64| i128::from(seconds) * 1_000_000_000 + i128::from(part);
    Ok([
        meta.dev().into(),
        meta.ino().into(),
        meta.size().into(),
        nanoseconds(meta.mtime(), meta.mtime_nsec()),
        nanoseconds(meta.ctime(), meta.ctime_nsec()),
    ])
}

/// The system's certificate authorities; empty if the image has none, and the built-in Mozilla ones are used
/// instead. Exhausted descriptors are an error, not an empty list.
fn system_roots(
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Certificate<'static>>> {
    for path in bundles() {
        match read(&path) {
            Ok(pem) => return Ok(certificates_in(&pem)),
            Err(error) if is_out_of_resources(&error) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(Vec::new())
}

fn bundles() -> impl Iterator<Item = PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain(BUNDLES.map(PathBuf::from))
}

fn certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let found = certificates_in(&read(path)?);
    match found.is_empty() {
        true => Err(at(path, "holds no certificate")),
        false => Ok(found),
    }
}

/// Unreadable entries are skipped.
fn certificates_in(pem: &[u8]) -> Vec<Certificate<'static>> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    items.collect()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| match is_out_of_resources(&error) {
        true => error,
        false => at(path, error),
    })
}

fn at(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Debian and Alpine, Fedora, openSUSE.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn the_built_in_authorities_stand_in_for_missing_ones_only() {
        let refused = |errno: Errno| system_roots(move |_| Err(errno.into()));
        assert!(refused(Errno::ENOENT).unwrap().is_empty());
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
            let error = refused(errno).unwrap_err();
            assert!(is_out_of_resources(&error), "{error}");
        }
    }
}
