//! Fronts: registries at the local port, fetched by a gateway over TLS.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use laneway::net;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::lab::{Lab, Proxy};
use crate::peer::Peer;

/// What a registry answers.
#[derive(Clone)]
struct Page {
    status: &'static str,
    fields: String,
    body: Vec<u8>,
    /// How many more bytes are announced and never sent.
    missing: usize,
}

type Pages = Arc<Mutex<HashMap<String, Page>>>;

/// A server of HTTPS with a certificate of an authority of its own.
struct Registry {
    address: SocketAddr,
    pages: Pages,
    heads: Arc<Mutex<Vec<String>>>,
    directory: tempfile::TempDir,
    _running: JoinSet<()>,
}

fn page(fields: &str, body: impl Into<Vec<u8>>) -> Page {
    Page { status: "200 OK", fields: fields.into(), body: body.into(), missing: 0 }
}

impl Registry {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "registry authority");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let certificate = params.signed_by(&key, &ca).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config =
            config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (pages, heads): (Pages, Arc<Mutex<Vec<String>>>) = Default::default();
        let mut running = JoinSet::new();
        running.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), pages.clone(), heads.clone()));
        Self { address, pages, heads, directory, _running: running }
    }

    fn put(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// How often a path was asked for.
    fn asked(&self, path: &str) -> usize {
        let line = format!("GET {path} ");
        self.heads.lock().unwrap().iter().filter(|head| head.starts_with(&line)).count()
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, pages: Pages, heads: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = net::accept(&listener).await;
        let (tls, pages, heads) = (tls.clone(), pages.clone(), heads.clone());
        connections.spawn(async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
                let path = text.split(' ').nth(1).unwrap().to_owned();
                let mut found = pages
                    .lock()
                    .unwrap()
                    .get(&path)
                    .cloned()
                    .unwrap_or(Page { status: "404 Not Found", ..page("", "") });
                let is_anonymous = !text.to_ascii_lowercase().contains("\r\nauthorization: bearer anonymous");
                if found.fields.contains("X-Needs-Token") && is_anonymous {
                    let realm = format!(
                        "Bearer realm=\"https://{}/token\",service=\"s\",scope=\"repository:app:pull\"",
                        stream.get_ref().0.local_addr().unwrap()
                    );
                    found = Page {
                        status: "401 Unauthorized",
                        ..page(&format!("WWW-Authenticate: {realm}\r\n"), "denied")
                    };
                }
                heads.lock().unwrap().push(text);
                let Page { status, fields, body, missing } = found;
                let length = body.len() + missing;
                let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                if stream.write_all(&body).await.is_err() || missing > 0 {
                    return;
                }
                stream.flush().await.unwrap();
            }
        });
    }
}

/// A client with fronts of one registry, behind a gateway that trusts its authority.
struct Site {
    _lab: Lab,
    proxy: Proxy,
    registry: Registry,
}

impl Site {
    async fn new(fronts: &[&str]) -> Self {
        let registry = Registry::new();
        let options = format!("front-ca = ['{}']", registry.ca().display());
        Self::with(fronts, registry, &options).await
    }

    async fn with(fronts: &[&str], registry: Registry, options: &str) -> Self {
        let lab = Lab::with_limits(options).await;
        let proxy = lab.proxy().await;
        let url = registry.url();
        proxy.has_fronts(fronts.iter().map(|front| front.replace("URL", &url).parse().unwrap()).collect());
        Self { _lab: lab, proxy, registry }
    }

    async fn ask(&self, path: &str, fields: &str) -> Peer {
        let mut app = Peer::connect(self.proxy.address).await;
        let host = self.proxy.address;
        app.say(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{fields}\r\n")).await;
        app
    }

    /// The head and the body of a whole response.
    async fn get(&self, path: &str) -> (String, String) {
        self.get_with(path, "").await
    }

    async fn get_with(&self, path: &str, fields: &str) -> (String, String) {
        let all = self.ask(path, fields).await.rest().await;
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// As much as comes of a response that is cut off.
    async fn cut(&self, path: &str) -> String {
        self.ask(path, "").await.rest_before_reset().await
    }

    /// Expects that a response is cut off, or that an error takes its place: the end of a link's stream may overtake its
    /// beginning.
    async fn is_never_whole(&self, path: &str) {
        let mut bytes = Vec::new();
        let end = self.ask(path, "").await.until_any_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(end.is_err() || text.starts_with("HTTP/1.1 502 "), "an orderly end after {text:?}");
    }

    fn counted(&self, result: &str) -> u64 {
        let counts = self.proxy.telemetry.fronts.values();
        counts.iter().filter(|((_, what), _)| *what == result).map(|(_, count)| count).sum()
    }
}

/// The URL in `text` that contains `part`, as a path at the local port.
fn path_in(text: &str, part: &str) -> String {
    let mut urls = text.split(['"', '\'', ' ', '\n']).filter(|word| word.starts_with("http://127.0.0.1"));
    let url = urls.find(|url| url.contains(part)).unwrap_or_else(|| panic!("{part} in {text}"));
    let path = url.splitn(4, '/').nth(3).unwrap().split('#').next().unwrap();
    format!("/{path}")
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

const FRESH: &str = "Cache-Control: max-age=60\r\n";
const HTML: &str = "Content-Type: text/html\r\nCache-Control: max-age=60\r\n";

/// Some bytes that come in more than one piece.
fn file(seed: u8) -> String {
    (0..300_000u32)
        .map(|at| char::from(b'a' + u8::try_from((at / 7 + u32::from(seed)) % 26).unwrap()))
        .collect()
}

#[tokio::test]
async fn files_of_a_python_index_lead_back_and_cross_the_gateway_once() {
    let site = Site::new(&["pypi=URL/simple/"]).await;
    let wheel = file(0);
    let page_of = format!("<a href=\"/files/six.whl#sha256={}\">six.whl</a>", sha256(wheel.as_bytes()));
    site.registry.put(
        "/simple/six/",
        page(&format!("{HTML}Content-Encoding: gzip\r\nSet-Cookie: a=b\r\n"), gzip(&page_of)),
    );
    site.registry.put("/files/six.whl", page(FRESH, wheel.clone()));
    let (head, index) = site.get_with("/pypi/six/", "Cookie: secret\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(
        !head.contains("Content-Encoding") && !head.contains("Set-Cookie") && head.contains("sandbox"),
        "{head}"
    );
    let path = path_in(&index, "six.whl");
    for _ in 0..3 {
        let (_, body) = site.get(&path).await;
        assert!(body == wheel);
    }
    assert_eq!((site.registry.asked("/files/six.whl"), site.counted("verified")), (1, 3));
    let heads = site.registry.heads.lock().unwrap();
    assert!(heads.iter().all(|head| !head.contains("secret")), "{heads:?}");
}

#[tokio::test]
async fn a_file_that_is_not_the_one_in_the_index_is_never_complete() {
    let site = Site::new(&["pypi=URL/simple/"]).await;
    let (right, wrong) = (file(0), file(1));
    let index = format!("<a href=\"../../six.whl#sha256={}\">six</a>", sha256(right.as_bytes()));
    site.registry.put("/simple/six/", page(HTML, index));
    site.registry.put("/six.whl", page(FRESH, wrong.clone()));
    let (_, index) = site.get("/pypi/six/").await;
    let path = path_in(&index, "six.whl");
    for asked in 1..4 {
        let cut = site.cut(&path).await;
        let (_, body) = cut.split_once("\r\n\r\n").expect("a head");
        assert!(body.len() < wrong.len() && wrong.starts_with(body), "{} bytes", body.len());
        assert_eq!(site.counted("poisoned"), asked);
    }
    // Nor is a file of one piece.
    site.registry.put("/six.whl", page(FRESH, "tiny"));
    let cut = site.cut(&path).await;
    assert!(!cut.contains("tiny"), "{cut}");
    // Nor is an answer that a tool would take for the whole.
    for status in ["203 Other", "206 Partial Content"] {
        let fields = "Content-Range: bytes 0-299999/300000\r\n";
        site.registry.put("/six.whl", Page { status, ..page(fields, wrong.clone()) });
        let (head, _) = site.get(&path).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    }
    // The gateway's copy is not used again once the file is right.
    site.registry.put("/six.whl", page(FRESH, right.clone()));
    let (_, body) = site.get(&path).await;
    assert!(body == right);
}

#[tokio::test]
async fn a_file_with_two_urls_crosses_the_gateway_once_and_is_never_validated() {
    let site = Site::new(&["pypi=URL/simple/", "npm=URL/npm/"]).await;
    let wheel = file(0);
    let link = |path: &str| format!("<a href=\"{path}#sha256={}\">f</a>", sha256(wheel.as_bytes()));
    site.registry.put("/simple/six/", page(HTML, link("/one/six.whl") + &link("/two/six.whl")));
    // The file has neither a lifetime nor a validator.
    site.registry.put("/one/six.whl", page("", wheel.clone()));
    let (_, index) = site.get("/pypi/six/").await;
    for part in ["one/six.whl", "two/six.whl", "one/six.whl"] {
        assert!(site.get(&path_in(&index, part)).await.1 == wheel);
    }
    assert_eq!((site.registry.asked("/one/six.whl"), site.registry.asked("/two/six.whl")), (1, 0));
    // The file that is now wrong at the server is not asked for, and displaces nothing.
    site.registry.put("/one/six.whl", page(FRESH, file(1)));
    assert!(site.get(&path_in(&index, "one/six.whl")).await.1 == wheel);
    assert_eq!((site.counted("verified"), site.counted("poisoned")), (4, 0));
}

#[tokio::test]
async fn packages_of_npm_and_crates_lead_back_and_are_checked() {
    let site = Site::new(&["npm=URL/npm/", "crates=URL/index/"]).await;
    let (tarball, wrong) = (file(2), file(3));
    let integrity = |text: &str| {
        use base64::Engine as _;
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, text.as_bytes());
        format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(hash))
    };
    let json = "Content-Type: application/json\r\n";
    let url = site.registry.url();
    let dist = |name: &str, of: &str| {
        format!(
            r#""{name}":{{"dist":{{"tarball":"{url}/npm/a/-/{name}.tgz","integrity":"{}"}}}}"#,
            integrity(of)
        )
    };
    let metadata = format!(r#"{{"versions":{{{},{}}}}}"#, dist("a", &tarball), dist("b", &tarball));
    site.registry.put("/npm/a", page(json, metadata));
    site.registry.put("/npm/a/-/a.tgz", page(FRESH, tarball.clone()));
    site.registry.put("/npm/a/-/b.tgz", page(FRESH, wrong));
    let (_, metadata) = site.get("/npm/a").await;
    site.cut(&path_in(&metadata, "b.tgz")).await;
    // Both are one file.
    assert!(site.get(&path_in(&metadata, "a.tgz")).await.1 == tarball);
    assert!(site.get(&path_in(&metadata, "b.tgz")).await.1 == tarball);

    site.registry
        .put("/index/config.json", page(json, format!(r#"{{"dl":"{url}/dl/{{crate}}-{{version}}.crate"}}"#)));
    let line =
        format!(r#"{{"name":"abcd","vers":"1.0.0","deps":[],"cksum":"{}"}}"#, sha256(tarball.as_bytes()));
    site.registry.put("/index/ab/cd/abcd", page("Content-Type: text/plain\r\n", format!("{line}\n")));
    site.registry.put("/dl/abcd-1.0.0.crate", page("", file(4)));
    let (_, config) = site.get("/crates/config.json").await;
    let dl = path_in(&config, "/dl/").replace("{crate}", "abcd").replace("{version}", "1.0.0");
    assert_eq!(site.get("/crates/ab/cd/abcd").await.1, format!("{line}\n"));
    site.cut(&dl).await;
    site.registry.put("/dl/abcd-1.0.0.crate", page("", tarball.clone()));
    assert!(site.get(&dl).await.1 == tarball);
    assert_eq!((site.counted("verified"), site.counted("poisoned")), (3, 2));
}

#[tokio::test]
async fn packages_of_an_apt_archive_are_checked_by_the_lists_that_its_release_names() {
    let site = Site::new(&["apt/debian=URL/debian"]).await;
    let package = file(5);
    let list = gzip(&format!(
        "Package: a\nFilename: pool/a.deb\nSHA256: {}\n\nPackage: b\nFilename: pool/b.deb\nSHA256: {}\n",
        sha256(package.as_bytes()),
        "0".repeat(64)
    ));
    let list_path = "/debian/dists/stable/main/binary-amd64/Packages.gz";
    let release =
        format!("Origin: lab\nSHA256:\n {} {} main/binary-amd64/Packages.gz\n", sha256(&list), list.len());
    site.registry.put("/debian/dists/stable/InRelease", page("", release.clone()));
    site.registry.put(list_path, page("", gzip("Package: evil\n")));
    site.registry.put("/debian/pool/a.deb", page("", package.clone()));
    site.registry.put("/debian/pool/b.deb", page("", package.clone()));
    assert_eq!(site.get("/apt/debian/dists/stable/InRelease").await.1, release);
    site.cut(&list_path.replace("/debian", "/apt/debian")).await;
    site.registry.put(list_path, page("", list));
    let mut app = site.ask(&list_path.replace("/debian", "/apt/debian"), "").await;
    let mut received = Vec::new();
    app.stream.read_to_end(&mut received).await.unwrap();
    assert!(site.get("/apt/debian/pool/a.deb").await.1 == package);
    site.cut("/apt/debian/pool/b.deb").await;
}

#[tokio::test]
async fn an_image_is_fetched_with_an_anonymous_token_and_checked_by_its_name() {
    let site = Site::new(&["oci=URL"]).await;
    let layer = file(6);
    let blob = format!("/v2/app/blobs/sha256:{}", sha256(layer.as_bytes()));
    let needs = format!("{FRESH}X-Needs-Token: 1\r\n");
    site.registry.put("/v2/", page(&needs, "{}"));
    site.registry.put(&blob, page(&needs, layer.clone()));
    let other = format!("/v2/app/blobs/sha256:{}", "0".repeat(64));
    site.registry.put(&other, page(&needs, layer.clone()));
    site.registry.put(
        "/token?service=s&scope=repository:app:pull",
        page("", r#"{"token":"anonymous-1","expires_in":300}"#),
    );
    assert_eq!(site.get("/v2/").await.1, "{}");
    for _ in 0..3 {
        assert!(site.get(&blob).await.1 == layer);
    }
    // Once to hear that a token is needed, once with it; then it is in the gateway's cache.
    assert_eq!(site.registry.asked(&blob), 2);
    site.cut(&other).await;
    assert_eq!((site.counted("verified"), site.counted("poisoned")), (3, 1));
}

#[tokio::test]
async fn a_token_is_for_its_registry_alone_and_nobody_else_is_given_one() {
    let (registry, other) = (Registry::new(), Registry::new());
    let options = format!("front-ca = ['{}', '{}']", registry.ca().display(), other.ca().display());
    let site = Site::with(&["oci=URL"], registry, &options).await;
    let list = "/v2/app/tags/list";
    let token = "/token?service=s&scope=repository:app:pull";
    for server in [&site.registry, &other] {
        server.put(list, page("X-Needs-Token: 1\r\n", "{}"));
        server.put(token, page("", r#"{"token":"anonymous-1","expires_in":300}"#));
    }
    assert_eq!(site.get(list).await.1, "{}");
    let (head, _) = site.get(&format!("/oci/~/https/{}{list}", other.address)).await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert_eq!((site.registry.asked(token), other.asked(token)), (1, 0));
    let sent = other.heads.lock().unwrap().concat();
    assert!(sent.contains(list) && !sent.contains("anonymous"), "{sent}");
}

#[tokio::test]
async fn a_redirect_of_a_registry_leads_back_and_keeps_the_digest() {
    let site = Site::new(&["oci=URL"]).await;
    let layer = file(7);
    let blob = format!("/v2/app/blobs/sha256:{}", sha256(layer.as_bytes()));
    let location = format!("Location: {}/cdn/layer?sig=1\r\n", site.registry.url());
    site.registry.put(&blob, Page { status: "307 Temporary Redirect", ..page(&location, "") });
    site.registry.put("/cdn/layer?sig=1", page("", file(8)));
    let (head, _) = site.get(&blob).await;
    let path = path_in(&head.replace('\r', " "), "/cdn/layer");
    site.cut(&path).await;
    site.registry.put("/cdn/layer?sig=1", page("", layer.clone()));
    assert!(site.get(&path).await.1 == layer);
}

/// The tool followed the redirect past the node, or took what anybody could have changed.
#[tokio::test]
async fn a_redirect_leads_neither_past_the_node_nor_from_tls_to_what_nothing_vouches_for() {
    let site = Site::new(&["pypi=URL/simple/", "npm=URL/npm/", "oci=URL"]).await;
    let moved =
        |location: &str| Page { status: "301 Moved", ..page(&format!("Location: {location}\r\n"), "") };
    let plain = "http://127.0.0.1:9/elsewhere";
    for path in ["/simple/six/", "/npm/a", "/npm/a/-/a.tgz", "/v2/app/tags/list", "/v2/app/manifests/latest"]
    {
        site.registry.put(path, moved(plain));
        let front = path.replace("/simple/", "/pypi/");
        for method in ["GET", "HEAD"] {
            let mut app = Peer::connect(site.proxy.address).await;
            app.say(format!("{method} {front} HTTP/1.0\r\nHost: {}\r\n\r\n", site.proxy.address)).await;
            let all = app.rest().await;
            let words = [" is redirected to http://127.0.0.1:9/elsewhere", "its digest is not known"];
            assert!(
                all.starts_with("HTTP/1.1 502 ") && words.iter().all(|words| all.contains(words)),
                "{all}"
            );
            assert!(!all.contains("Location"), "{all}");
        }
    }
    for location in ["ftp://h/x", "https://user@h/x", "https://h/a b"] {
        site.registry.put("/simple/six/", moved(location));
        let (head, _) = site.get("/pypi/six/").await;
        assert!(head.starts_with("HTTP/1.1 502 ") && !head.contains("Location"), "{head}");
    }
    // What has a digest is checked, wherever it comes from.
    let blob = format!("/v2/app/blobs/sha256:{}", sha256(b"layer"));
    site.registry.put(&blob, moved(plain));
    let (head, _) = site.get(&blob).await;
    assert!(
        head.starts_with("HTTP/1.1 301 ") && head.contains("/oci/~/http/127.0.0.1:9/elsewhere"),
        "{head}"
    );
}

#[tokio::test]
async fn a_head_says_what_a_get_brings_and_pages_of_a_list_lead_back() {
    let site = Site::new(&["oci=URL"]).await;
    let blob = format!("/v2/app/blobs/sha256:{}", sha256(b"layer"));
    site.registry.put(&blob, page("", "layer"));
    let mut app = Peer::connect(site.proxy.address).await;
    let fields = format!("Host: {}\r\nRange: bytes=1-2\r\n", site.proxy.address);
    app.say(format!("HEAD {blob} HTTP/1.0\r\n{fields}\r\n")).await;
    assert!(app.head().await.starts_with("HTTP/1.1 200 "));
    assert!(!site.registry.heads.lock().unwrap().concat().contains("Range"));
    let next =
        format!("Link: <{}/v2/_catalog?last=a>; rel=\"next\", </v2/x>; rel=a\r\n", site.registry.url());
    site.registry.put("/v2/_catalog", page(&next, "{}"));
    let (head, _) = site.get("/v2/_catalog").await;
    let here = format!("http://{}", site.proxy.address);
    let want = format!("Link: <{here}/v2/_catalog?last=a>; rel=\"next\", <{here}/v2/x>; rel=a");
    assert!(head.contains(&want), "{head}");
}

#[tokio::test]
async fn a_registry_whose_certificate_is_not_valid_is_not_used_and_the_tool_reads_why() {
    let site = Site::with(&["pypi=URL/"], Registry::new(), "").await;
    let (head, body) = site.get("/pypi/six/").await;
    assert!(head.starts_with("HTTP/1.1 502 gateway first: the certificate of 127.0.0.1:"), "{head}");
    assert!(head.contains("error=tls_certificate_error"), "{head}");
    assert!(
        body.contains("it was not issued by an authority that the gateway trusts")
            && body.contains("--front-ca"),
        "{body}"
    );
    assert!(site.registry.heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_front_that_is_not_configured_says_which_line_is_missing() {
    let site = Site::new(&["pypi=URL/"]).await;
    let (head, body) = site.get("/npm/a").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(body.contains("hint: add  npm = \"https://npm.example/\"  below [fronts]"), "{body}");
    let (_, body) = site.get_with("/apt/debian/x", "Accept: application/json\r\n").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(body["hint"].as_str().unwrap().contains("apt.debian = "), "{body}");
    assert!(site.get("/pypi/../x").await.0.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_a_front() {
    let site = Site::new(&["pypi=URL/"]).await;
    site.registry.put("/six/", page(HTML, "secret"));
    for (fields, status) in [
        ("Sec-Fetch-Site: cross-site\r\n", "403"),
        ("Sec-Fetch-Site: same-site\r\n", "403"),
        ("Origin: https://other.example\r\n", "403"),
        ("Sec-Fetch-Site: none\r\n", "200"),
    ] {
        let (head, _) = site.get_with("/pypi/six/", fields).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {head}");
    }
    let mut app = Peer::connect(site.proxy.address).await;
    app.say("GET /pypi/six/ HTTP/1.1\r\nHost: rebound.example\r\n\r\n").await;
    assert!(app.head().await.starts_with("HTTP/1.1 421 "));
}

#[tokio::test]
async fn a_login_goes_to_the_registry_alone_and_its_answer_is_not_stored() {
    let site = Site::new(&["npm=URL/npm/"]).await;
    let other = Registry::new();
    let json = "Content-Type: application/json\r\nCache-Control: max-age=60\r\n";
    site.registry.put("/npm/a", page(json, "{}"));
    for _ in 0..2 {
        site.get_with("/npm/a", "Authorization: Bearer mine\r\n").await;
    }
    assert_eq!(site.registry.asked("/npm/a"), 2);
    assert!(site.registry.heads.lock().unwrap()[0].contains("Authorization: Bearer mine"));
    // The other host's certificate is not valid here, so nothing reaches it; it would have been sent what the
    // registry's host gets.
    let (head, _) =
        site.get_with(&format!("/npm/~/https/{}/x", other.address), "Authorization: Bearer mine\r\n").await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn a_response_that_ends_too_early_is_never_whole_for_the_app() {
    let site = Site::new(&["pypi=URL/simple/"]).await;
    let page_of = Page { missing: 5, ..page(HTML, "<a href=\"x.whl\">x</a>") };
    site.registry.put("/simple/six/", page_of);
    site.is_never_whole("/pypi/six/").await;
    let broken = page(&format!("{HTML}Content-Encoding: gzip\r\n"), gzip("<a>")[..12].to_vec());
    site.registry.put("/simple/cut/", broken);
    site.is_never_whole("/pypi/cut/").await;
    let hostile = "Content-Type: text/html\r\nContent-Length: 99999999999999999999\r\n";
    site.registry.put("/simple/hostile/", page(hostile, "x"));
    let (head, _) = site.get("/pypi/hostile/").await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    site.registry
        .put("/simple/broken/", page("Content-Type: application/json\r\n", "{\"files\":[{\"url\":\"x"));
    assert_eq!(site.get("/pypi/broken/").await.1, "{\"files\":[{\"url\":\"x");
}

#[tokio::test]
async fn what_the_app_kept_from_before_is_asked_for_again_until_this_node_knows_its_digests() {
    let site = Site::new(&["pypi=URL/simple/"]).await;
    site.registry.put("/simple/six/", page(&format!("{HTML}ETag: \"a\"\r\n"), "<a href=\"x.whl\">x</a>"));
    let (head, _) = site.get_with("/pypi/six/", "If-None-Match: \"a\"\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (head, _) = site.get_with("/pypi/six/", "If-None-Match: \"a\"\r\n").await;
    assert!(head.starts_with("HTTP/1.1 304 "), "{head}");
}

/// The server's file and its index change while a client gets the file that the old index names.
#[tokio::test]
async fn a_file_that_changes_under_a_fetch_is_never_mixed_and_the_new_one_follows_its_index() {
    let site = Site::new(&["pypi=URL/simple/"]).await;
    let (old, new) = (file(0), file(1));
    let index = |of: &str| {
        page(
            HTML.replace("max-age=60", "max-age=0").as_str(),
            format!("<a href=\"/six.whl#sha256={}\">six</a>", sha256(of.as_bytes())),
        )
    };
    let tagged = |tag: &str| format!("{FRESH}ETag: \"{tag}\"\r\nAccept-Ranges: bytes\r\n");
    site.registry.put("/simple/six/", index(&old));
    // Half of it comes; the rest is asked for by Range, and answered by the new file.
    let half = Page { missing: old.len() / 2, ..page(&tagged("old"), &old.as_bytes()[..old.len() / 2]) };
    site.registry.put("/six.whl", half);
    let (_, before) = site.get("/pypi/six/").await;
    let path = path_in(&before, "six.whl");
    let mut app = site.ask(&path, "").await;
    let (mut bytes, mut swapped) = (Vec::new(), false);
    let end = {
        let read = app.until_any_end(&mut bytes);
        let swap = async {
            while site.registry.asked("/six.whl") == 0 {
                tokio::task::yield_now().await;
            }
            site.registry.put("/six.whl", page(&tagged("new"), new.clone()));
            site.registry.put("/simple/six/", index(&new));
            swapped = true;
        };
        tokio::join!(read, swap).0
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let got = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(
        swapped && (end.is_err() && old.starts_with(got) || text.starts_with("HTTP/1.1 502 ")),
        "{} bytes",
        got.len()
    );
    assert!(got.len() < old.len());
    // By the old index no file is delivered, by the new index the new one is.
    site.cut(&path).await;
    let (_, after) = site.get("/pypi/six/").await;
    for _ in 0..2 {
        assert!(site.get(&path_in(&after, "six.whl")).await.1 == new);
    }
    assert!(site.counted("verified") == 2 && site.counted("poisoned") >= 1);
}
