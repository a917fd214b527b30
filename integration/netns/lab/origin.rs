//! The web server on s1 and the file that it serves.

use super::process::Process;
use super::programs;
use super::{Lab, isolate};
use aws_lc_rs::digest::{SHA256, digest};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use std::{fs, iter};

/// Long enough for a slow machine to start a web server.
const START: Duration = Duration::from_secs(10);

/// The size of the served file.
const BIG: usize = 64 << 20;

/// A file of pseudo-random content without repetition, so that its hash reveals any loss, duplication or reordering.
pub(crate) struct Payload {
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
}

/// What `http://10.88.0.100/big` serves, 64 MiB, made once in a run.
pub(crate) fn big() -> &'static Payload {
    static PAYLOAD: OnceLock<Payload> = OnceLock::new();
    PAYLOAD.get_or_init(|| {
        let path = Path::new(isolate::WORK).join("www/big");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = noise(1, BIG);
        fs::write(&path, &content).unwrap();
        Payload { path, sha256: sha256(&content) }
    })
}

/// `length` pseudo-random bytes (xorshift64, Marsaglia 2003), the same for the same seed, which is not zero.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let words = iter::successors(Some(seed), |x| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        Some(x ^ (x << 17))
    });
    // The first words of a small seed are mostly zeros.
    words.skip(20).take(length.div_ceil(8)).flat_map(u64::to_le_bytes).take(length).collect()
}

/// Makes numbers below a bound: by xorshift (Marsaglia 2003), so that they are the same in every run.
pub(crate) fn choices() -> impl FnMut(usize) -> usize {
    let mut random = 88_172_645_463_325_252_u64;
    move |below| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).expect("it is small")
    }
}

/// The SHA-256 in hexadecimal.
pub(crate) fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

impl Lab {
    /// Starts a web server on 10.88.0.100:80 that serves `/big`: nginx where it is installed, else laneway's own.
    pub(crate) fn origin(&self) -> Process {
        let files = big().path.parent().unwrap();
        let Some(nginx) = programs::find("nginx") else {
            let directory = files.to_str().unwrap();
            let own = self.server.laneway(&["origin", "--listen", "10.88.0.100:80", "--dir", directory]);
            let mut process = self.server.spawn(own);
            process.wait_for_line("listening", START);
            return process;
        };

        let directory = self.server.directory();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
            .concat();
        // One process, so that there is one id to kill. It keeps its user, the only one
        // in a user namespace.
        let configuration = format!(
            "daemon off;\nmaster_process off;\nuser root root;\npid {0}/nginx.pid;\nerror_log stderr notice;\nevents {{}}\nhttp {{\n\
             access_log {0}/access.log;\nsendfile on;\n{temporary}\
             server {{ listen 10.88.0.100:80; root {1}; }}\n}}\n",
            directory.display(),
            files.display()
        );
        let file = self.write("nginx.conf", configuration);
        let mut command = self.server.command(nginx.to_str().unwrap());
        command.arg("-p").arg(directory).args(["-e", "stderr", "-c"]).arg(file);
        let mut process = self.server.spawn(command);
        // The first line that it logs once its sockets listen.
        process.wait_for_line("getrlimit", START);
        process
    }
}
