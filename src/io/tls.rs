//! TLS 1.2 and 1.3 (RFC 5246, RFC 8446) over a connection of ours: rustls with ring.
//!
//! Left out: ChaCha20-Poly1305, which servers offer only beside AES; ALPN, as HTTP/1.1 needs none; session
//! resumption, since connections are not kept and a check asks as a new client would.

mod provider;

use super::monitor::is_own_want;
use super::stream::Stream;
use futures_rustls::TlsConnector;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whom we trust and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Authorities; `None`: the system's.
    pub(super) ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// What a connection needs to know. It is costly to make, and cheap to clone.
#[derive(Clone)]
pub(super) struct Config(Arc<ClientConfig>);

impl Config {
    /// Reads the files, and blocks meanwhile.
    pub(super) fn read(files: &Files) -> io::Result<Self> {
        let roots = match &files.ca {
            Some(path) => store(certificates(path)?),
            None => system_roots(|path| std::fs::read(path))?,
        };
        let trusting = builder(provider::aes_only())?.with_root_certificates(roots);
        let config = match &files.identity {
            Some((cert, key)) => trusting
                .with_client_auth_cert(certificates(cert)?, private_key(key)?)
                .map_err(|error| at(cert, error))?,
            None => trusting.with_no_client_auth(),
        };
        Ok(Self::new(config))
    }

    /// Takes any certificate.
    pub(super) fn insecure() -> io::Result<Self> {
        let provider = provider::aes_only();
        let schemes = provider
            .signature_verification_algorithms
            .supported_schemes();
        let config = builder(provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody { schemes }))
            .with_no_client_auth();
        Ok(Self::new(config))
    }

    fn new(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// Shakes hands with `host`, an address or a name.
    pub(super) async fn open(&self, host: &str, stream: Stream) -> io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        let connected = connector.connect(name, stream).await;
        Ok(Box::new(connected.map_err(explained)?))
    }
}

/// What rustls has no word of its own for is said in the verifier's.
fn explained(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(why))) => {
            io::Error::new(error.kind(), format!("invalid peer certificate: {why}"))
        }
        _ => error,
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn builder(provider: CryptoProvider) -> io::Result<Builder> {
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(io::Error::other)
}

/// The system's certificate authorities, for services of one's own; Mozilla's, built in, where the image
/// has none. That there is no descriptor left to read them does not say that there are none.
fn system_roots(read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> io::Result<RootCertStore> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let places = named.into_iter().chain(BUNDLES.map(PathBuf::from));
    let mut found = Vec::new();
    for path in places {
        match read(&path) {
            Ok(pem) => {
                found = pem;
                break;
            }
            Err(error) if is_own_want(&error) => return Err(error),
            Err(_) => {}
        }
    }
    let certs = CertificateDer::pem_slice_iter(&found).filter_map(Result::ok);
    let mut roots = store(certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

/// Those that cannot be read as an authority are passed over: bundles hold oddities.
fn store(certs: impl IntoIterator<Item = CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certs);
    roots
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).map_err(|error| at(path, error))?;
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .filter_map(Result::ok)
        .collect();
    if certs.is_empty() {
        return Err(at(path, "holds no certificate"));
    }
    Ok(certs)
}

fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    let pem = std::fs::read(path).map_err(|error| at(path, error))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| at(path, "holds no private key"))
}

fn at(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Vouches for whoever answers.
#[derive(Debug)]
struct Anybody {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
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
        assert_eq!(
            refused(Errno::ENOENT).unwrap().len(),
            webpki_roots::TLS_SERVER_ROOTS.len()
        );
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
            let error = refused(errno).unwrap_err();
            assert!(is_own_want(&error), "{error}");
        }
    }
}
