//! TCP with TLS, by a client that nobody here wrote: curl.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qga_gateway::config::{SecretFile, TlsConfig};
use qga_gateway::server::Tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::agent::Agent;
use super::client::Target;
use super::gateway::{BOUND, Gateway};

/// Somebody who signs certificates, and a place for them.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a CA of the tests");
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, common: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        let file = self.path(&format!("{name}.key"));
        fs::write(&file, key.serialize_pem()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(&self, more: &str) -> String {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        format!("[listen.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}\n")
    }

    async fn gateway(&self, tls: &str, more: &str) -> Gateway {
        self.sign("server", "localhost");
        // The tables of the harness come behind these.
        Gateway::configured(Agent::default(), &format!("{more}\n{}", self.config(tls))).await
    }

    /// What curl prints for this URL path, and whether it is content.
    async fn curl(&self, gateway: &Gateway, path: &str, more: &[&str]) -> (bool, String) {
        let Target::Tcp(address) = gateway.tcp else { panic!("TCP") };
        let url = format!("https://localhost:{}{path}", address.port());
        let resolve = format!("localhost:{}:{}", address.port(), address.ip());
        let ca = self.path("ca.pem");
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--resolve", &resolve, "--cacert"])
            .arg(&ca)
            .args(["-w", "\n%{http_code}"])
            .args(more)
            .arg(&url)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text + &String::from_utf8(output.stderr).unwrap())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_tcp_over_tls_and_plain_http_is_not_spoken() {
    let authority = Authority::new();
    let gateway = authority.gateway("", "").await;
    let bearer = format!("Authorization: Bearer {}", gateway.token);
    let (ok, said) = authority.curl(&gateway, "/vms", &["-H", &bearer]).await;
    assert!(ok && said.ends_with("200"), "{said}");
    let (ok, said) = authority.curl(&gateway, "/vms", &[]).await;
    assert!(ok && said.ends_with("401"), "{said}");
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let (ok, said) = authority.curl(&gateway, "/livez", &[version]).await;
        assert!(ok && said.ends_with("200"), "{said}");
    }
    let (ok, said) = authority.curl(&gateway, "/livez", &["--tls-max", "1.1"]).await;
    assert!(!ok, "{said}");
    let Target::Tcp(address) = gateway.tcp else { panic!("TCP") };
    let url = format!("http://{address}/livez");
    let plain = Command::new("curl").args(["-s", &url]).status().await.unwrap();
    assert!(!plain.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_is_a_principal_and_a_strangers_is_refused() {
    let authority = Authority::new();
    let ca = format!("client_ca = {:?}", authority.path("ca.pem"));
    let grant = "[[grant]]\nto = [\"cert:backup.example\"]\nrights = [\"observe\"]\n\
                 vms = [\"absent\"]";
    let gateway = authority.gateway(&ca, grant).await;
    authority.sign("client", "backup.example");
    let (cert, key) = (authority.path("client.pem"), authority.path("client.key"));
    let with = ["--cert", text(&cert), "--key", text(&key)];
    let (ok, said) = authority.curl(&gateway, "/vms", &with).await;
    assert!(ok && said.contains("\"absent\"") && !said.contains("\"vm\""), "{said}");
    // A token outdoes it, a wrong one too.
    let both = [&with[..], &["-H", "Authorization: Bearer wrong"]].concat();
    let (ok, said) = authority.curl(&gateway, "/vms", &both).await;
    assert!(ok && said.ends_with("401"), "{said}");
    // Without one, it is as if there was none to have.
    let (ok, said) = authority.curl(&gateway, "/vms", &[]).await;
    assert!(ok && said.ends_with("401"), "{said}");
    let stranger = Authority::new();
    stranger.sign("client", "backup.example");
    let (cert, key) = (stranger.path("client.pem"), stranger.path("client.key"));
    let with = ["--cert", text(&cert), "--key", text(&key)];
    let (ok, said) = authority.curl(&gateway, "/vms", &with).await;
    assert!(!ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_certificate_is_required_nobody_speaks_without() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let more = format!("client_ca = {ca:?}\nclient_certificate_required = true");
    let gateway = authority.gateway(&more, "").await;
    let (ok, said) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(!ok, "{said}");
    authority.sign("client", "any");
    let (cert, key) = (authority.path("client.pem"), authority.path("client.key"));
    let with = ["--cert", text(&cert), "--key", text(&key)];
    let (ok, said) = authority.curl(&gateway, "/livez", &with).await;
    assert!(ok && said.ends_with("200"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_taken_over_without_a_restart_or_left_as_they_were() {
    let authority = Authority::new();
    let gateway = authority.gateway("", "").await;
    let tls = gateway.tls.clone().unwrap();
    let (ok, said) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(ok, "{said}");
    // Another authority's certificate takes its place.
    let other = Authority::new();
    other.sign("server", "localhost");
    let good = fs::read(authority.path("server.pem")).unwrap();
    fs::copy(other.path("server.pem"), authority.path("server.pem")).unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("server.pem"), "the key is not its: {error}");
    let (ok, said) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(ok, "{said}");
    assert_ne!(fs::read(authority.path("server.pem")).unwrap(), good);
    fs::copy(other.path("server.key"), authority.path("server.key")).unwrap();
    tls.reload().unwrap();
    let (ok, _) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(!ok, "nobody here knows who signed it");
    let (ok, said) = other.curl(&gateway, "/livez", &[]).await;
    assert!(ok, "{said}");
}

/// A connection that a client with `client.pem` has opened, and keeps.
async fn certified(authority: &Authority, gateway: &Gateway) -> TlsStream<TcpStream> {
    let Target::Tcp(address) = gateway.tcp else { panic!("TCP") };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(authority.path("client.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(authority.path("client.key")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Asks on an open connection, and reads until what was waited for has come.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str, until: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains(until) {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(BOUND, stream.read(&mut piece)).await.expect("in time");
        let read = read.unwrap();
        assert!(read > 0, "{text}");
        text += std::str::from_utf8(&piece[..read]).unwrap();
    }
}

async fn ends(stream: &mut TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    // However it ends.
    let _ = tokio::time::timeout(BOUND, stream.read_to_end(&mut rest)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_by_an_authority_that_counts_no_more_is_sent_away() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("client", "backup.example");
    let signers = authority.path("signers.pem");
    fs::copy(authority.path("ca.pem"), &signers).unwrap();
    let grant = "[[grant]]\nto = [\"cert:backup.example\"]\nrights = [\"observe\"]";
    let gateway = authority.gateway(&format!("client_ca = {signers:?}"), grant).await;
    let mut idle = certified(&authority, &gateway).await;
    ask(&mut idle, "/vms", "200 OK").await;
    let mut follows = certified(&authority, &gateway).await;
    ask(&mut follows, "/events", "retry: ").await;
    // Another authority comes in: nobody has to go.
    let both = [&authority, &other].map(|by| fs::read_to_string(by.path("ca.pem")).unwrap());
    fs::write(&signers, both.concat()).unwrap();
    gateway.tls.clone().unwrap().reload().unwrap();
    ask(&mut idle, "/vms/vm", "200 OK").await;
    // And the old one goes.
    fs::copy(other.path("ca.pem"), &signers).unwrap();
    gateway.tls.clone().unwrap().reload().unwrap();
    ends(&mut idle).await;
    ends(&mut follows).await;
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let files = |certificate: &str, key: &str| TlsConfig {
        certificate: SecretFile::Path(authority.path(certificate)),
        key: SecretFile::Path(authority.path(key)),
        client_ca: None,
        client_certificate_required: false,
    };
    let said = |files: &TlsConfig| Tls::load(files).unwrap_err().to_string();
    assert!(said(&files("none.pem", "server.key")).contains("none.pem: "));
    assert!(said(&files("server.key", "server.key")).contains("holds no certificate"));
    assert!(said(&files("server.pem", "server.pem")).contains("server.pem: "));
    let key = authority.path("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(said(&files("server.pem", "server.key")).contains("can read this private key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_comes_with_a_token_or_a_certificate() {
    let authority = Authority::new();
    let ca = format!("client_ca = {:?}", authority.path("ca.pem"));
    let grant = "[[grant]]\nto = [\"cert:backup.example\"]\nrights = [\"observe\"]\n\
                 vms = [\"absent\"]";
    let gateway = authority.gateway(&ca, grant).await;
    authority.sign("client", "backup.example");
    let Target::Tcp(address) = gateway.tcp else { panic!("TCP") };
    let url = format!("https://localhost:{}", address.port());
    let token = authority.path("token");
    fs::write(&token, format!("{}\n", gateway.token)).unwrap();
    let (ca, cert, key) =
        (authority.path("ca.pem"), authority.path("client.pem"), authority.path("client.key"));
    let (ca, cert, key) = (text(&ca), text(&cert), text(&key));
    let run = async |more: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qga-gateway"));
        command.args(["vms", "--json"]).env_remove("QGA_GATEWAY_URL");
        for (name, value) in more {
            match name.strip_prefix("--") {
                Some(_) => command.args([name, value]),
                None => command.env(name, value),
            };
        }
        let output = command.output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said + &String::from_utf8(output.stderr).unwrap())
    };
    let way = [("--url", url.as_str()), ("--cacert", ca)];
    let (code, said) = run(&[&way[..], &[("--token-file", text(&token))]].concat()).await;
    assert!(code == Some(0) && said.contains("\"vm\"") && said.contains("\"absent\""), "{said}");
    let (code, said) = run(&[&way[..], &[("--cert", cert), ("--key", key)]].concat()).await;
    assert!(code == Some(0) && said.contains("\"absent\"") && !said.contains("\"vm\""), "{said}");
    let variables = [
        ("QGA_GATEWAY_URL", url.as_str()),
        ("QGA_GATEWAY_CACERT", ca),
        ("QGA_GATEWAY_TOKEN", gateway.token.as_str()),
    ];
    let (code, said) = run(&variables).await;
    assert!(code == Some(0) && said.contains("\"vm\""), "{said}");

    let (code, said) = run(&way).await;
    assert!(code == Some(1) && said.contains("[unauthenticated]"), "{said}");
    assert!(said.contains("--token-file"), "{said}");
    let stranger = Authority::new();
    let other = stranger.path("ca.pem");
    let (code, said) = run(&[way[0], ("--cacert", text(&other))]).await;
    assert!(code == Some(4) && said.contains("certificate"), "{said}");
    let plain = url.replace("https", "http");
    let (code, said) = run(&[("--url", &plain), ("--token-file", text(&token))]).await;
    assert!(code == Some(4), "{said}");
    for (more, word) in [
        (vec![("--token-file", "/nonexistent/token")], "/nonexistent/token"),
        (vec![("--token-file", "/dev/null")], "holds no token"),
        (vec![("--cert", cert)], "--key"),
    ] {
        let (code, said) = run(&[&way[..], &more].concat()).await;
        assert!(matches!(code, Some(1 | 2)) && said.contains(word), "{said}");
    }
}
