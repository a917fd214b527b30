//! A download whose gateway dies is resumed through the next one with the same bytes, or the app sees that it is truncated.

use super::curl::HTTP;
use crate::lab::fleet::Fleet;
use crate::lab::origin::{noise, sha256};
use crate::lab::process::{Output, Process};
use crate::lab::wait::PATIENCE;
use crate::lab::web::{Request, Web, wait_for_the_end, who};
use crate::lab::{Case, Lab, wait_until};
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::OnceLock;

pub(super) const CASES: &[Case] = &[
    ("resume::a_download_survives_one_kill_and_three_kills", a_download_survives_one_kill_and_three_kills),
    ("resume::other_content_is_never_spliced_in", other_content_is_never_spliced_in),
    (
        "resume::a_download_is_completed_by_a_server_that_sends_the_same_whole_again",
        a_download_is_completed_by_a_server_that_sends_the_same_whole_again,
    ),
    (
        "resume::a_download_without_a_strong_validator_is_not_resumed",
        a_download_without_a_strong_validator_is_not_resumed,
    ),
];

const LENGTH: usize = 4 << 20;
/// The number of bytes that the server sends before it stops and waits for the end of its gateway: more than the 1 MiB
/// by which the rest is asked for earlier.
const PART: usize = (1 << 20) + (1 << 12);

/// The content of the file, by version.
fn version(number: u64) -> &'static [u8] {
    static VERSIONS: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
    VERSIONS[usize::from(number == 2)].get_or_init(|| noise(10 + number, LENGTH))
}

fn a_download_survives_one_kill_and_three_kills(lab: &Lab) {
    // The first digit of the path is the number of times that the download stops.
    let web = lab.web(|asked, stream| {
        let Some(stops) = asked.path.strip_prefix("/stops/").and_then(|path| path.parse::<usize>().ok())
        else {
            return who(asked, stream);
        };
        let start = asked.start().unwrap_or(0);
        let status = if asked.start().is_some() {
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{LENGTH}", LENGTH - 1)
        } else {
            "200 OK".into()
        };
        head(stream, &status, LENGTH - start, "ETag: \"one\"\r\n")?;
        if asked.turn > stops {
            return stream.write_all(&version(1)[start..]);
        }
        // The rest is asked for from a little earlier than the app's part ends.
        stream.write_all(&version(1)[start..asked.turn * PART])?;
        wait_for_the_end(stream)
    });
    let mut fleet = lab.fleet(3, &[]);
    for (stops, from) in [(1, 0), (3, 0), (2, 1000)] {
        let path = format!("/stops/{stops}");
        let download = curl_from(&fleet, &path, from);
        for stop in 1..=stops {
            wait_until("the next part", || {
                web.asked(&path).len() == stop && download.printed() >= (stop * PART - from) as u64
            });
            kill_and_restart(&mut fleet, &web, &path);
        }
        let output = download.finish(PATIENCE).success();
        assert_eq!(sha256(&output.stdout), sha256(&version(1)[from..]), "after {stops} kills");
        let asked = web.asked(&path);
        assert_eq!(asked.len(), stops + 1);
        assert!(asked[1..].iter().all(|asked| asked.field("if-range") == Some("\"one\"")));
    }
}

/// How a server answers the request for the rest.
type Rest = fn(&Request, usize, &mut TcpStream) -> io::Result<()>;

fn other_content_is_never_spliced_in(lab: &Lab) {
    const RESTS: [(&str, Rest); 14] = [
        ("/changed", |_, _, stream| {
            head(stream, "200 OK", LENGTH, "ETag: \"two\"\r\n")?;
            stream.write_all(version(2))
        }),
        ("/changed-part", |_, start, stream| part(stream, start, LENGTH, "ETag: \"two\"\r\n", version(2))),
        ("/same-tag-other-length", |_, start, stream| {
            part(stream, start, LENGTH - 5, "ETag: \"one\"\r\n", version(2))
        }),
        ("/wrong-start", |_, start, stream| {
            part(stream, start + 1000, LENGTH, "ETag: \"one\"\r\n", version(1))
        }),
        ("/earlier-start", |_, start, stream| {
            part(stream, start - 1, LENGTH, "ETag: \"one\"\r\n", version(1))
        }),
        ("/wrong-total", |_, start, stream| {
            range(stream, start, LENGTH - 1, LENGTH + 1, LENGTH - start, "ETag: \"one\"\r\n")?;
            stream.write_all(&version(1)[start..])
        }),
        ("/wrong-length", |_, start, stream| {
            range(stream, start, LENGTH - 1, LENGTH, LENGTH - start + 1, "ETag: \"one\"\r\n")?;
            stream.write_all(&version(1)[start..])?;
            stream.write_all(b"x")
        }),
        ("/no-validator", |_, start, stream| part(stream, start, LENGTH, "", version(2))),
        ("/weak-validator", |_, start, stream| {
            part(stream, start, LENGTH, "ETag: W/\"one\"\r\n", version(2))
        }),
        ("/other-coding", |_, start, stream| {
            part(stream, start, LENGTH, "ETag: \"one\"\r\nContent-Encoding: gzip\r\n", version(2))
        }),
        ("/out-of-range", |_, _, stream| {
            head(stream, "416 Range Not Satisfiable", 0, "Content-Range: bytes */7\r\n")
        }),
        ("/chunked", |_, start, stream| {
            let range = format!("Content-Range: bytes {start}-{}/{LENGTH}", LENGTH - 1);
            write!(
                stream,
                "HTTP/1.1 206 P\r\n{range}\r\nETag: \"one\"\r\nTransfer-Encoding: chunked\r\n\r\n"
            )?;
            write!(stream, "{:x}\r\n", LENGTH - start)?;
            stream.write_all(&version(1)[start..])?;
            stream.write_all(b"\r\n0\r\n\r\n")
        }),
        ("/closes", |_, _, _| Ok(())),
        ("/closes-early", |_, start, stream| {
            range(stream, start, LENGTH - 1, LENGTH, LENGTH - start, "ETag: \"one\"\r\n")?;
            stream.write_all(&version(1)[start..LENGTH - 10])
        }),
    ];
    let web = lab.web(|asked, stream| {
        let Some((_, rest)) = RESTS.iter().find(|(path, _)| *path == asked.path) else {
            return who(asked, stream);
        };
        if asked.turn == 1 {
            return begin(stream, "ETag: \"one\"\r\n");
        }
        match asked.start() {
            Some(start) => rest(asked, start, stream),
            // A gateway asks for the whole after a part that is not the one it asked for.
            None => {
                head(stream, "200 OK", LENGTH, "ETag: \"two\"\r\n")?;
                stream.write_all(version(2))
            }
        }
    });
    let mut fleet = lab.fleet(2, &[]);
    for (path, _) in RESTS {
        let output = interrupted(&mut fleet, &web, path);
        let asked = web.asked(path);
        assert!(asked[1].start().is_some(), "{path}: the rest is asked for by its start");
        if output.status.success() {
            // A gateway may find what is missing in another range of the same version.
            assert!(output.stdout == version(1), "{path}: complete, and other bytes");
        } else {
            is_cut(path, &output);
        }
    }
}

fn a_download_is_completed_by_a_server_that_sends_the_same_whole_again(lab: &Lab) {
    let web = lab.web(|asked, stream| match asked.path.as_str() {
        "/whole" if asked.turn == 1 => begin(stream, "ETag: \"one\"\r\n"),
        "/whole" => {
            head(stream, "200 OK", LENGTH, "ETag: \"one\"\r\n")?;
            stream.write_all(version(1))
        }
        _ => who(asked, stream),
    });
    let mut fleet = lab.fleet(2, &[]);
    let output = interrupted(&mut fleet, &web, "/whole").success();
    assert_eq!(sha256(&output.stdout), sha256(version(1)));
}

fn a_download_without_a_strong_validator_is_not_resumed(lab: &Lab) {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nLast-Modified: Sun, 06 Nov 1994 08:49:00 GMT\r\n";
    let firsts = [
        ("/no-validator", String::new()),
        ("/weak-tag", "ETag: W/\"one\"\r\n".into()),
        ("/modified-lately", date.into()),
        ("/no-ranges", "ETag: \"one\"\r\nAccept-Ranges: none\r\n".into()),
    ];
    let paths = firsts.clone().map(|(path, _)| path);
    let web = lab.web(move |asked, stream| match firsts.iter().find(|(path, _)| *path == asked.path) {
        None => who(asked, stream),
        Some((_, fields)) if asked.turn == 1 => begin(stream, fields),
        Some((_, fields)) => part(stream, asked.start().unwrap_or(0), LENGTH, fields, version(1)),
    });
    let mut fleet = lab.fleet(2, &[]);
    for path in paths {
        let output = interrupted(&mut fleet, &web, path);
        assert_eq!(web.asked(path).len(), 1, "{path}");
        is_cut(path, &output);
    }
}

/// A download whose gateway is killed after its first part.
fn interrupted(fleet: &mut Fleet, web: &Web, path: &str) -> Output {
    let download = curl(fleet, path);
    wait_until("the first part", || download.printed() >= PART as u64);
    kill_and_restart(fleet, web, path);
    download.finish(PATIENCE)
}

/// Kills the gateway that the last request for `path` came through, and starts it again.
fn kill_and_restart(fleet: &mut Fleet, web: &Web, path: &str) {
    let last = web.asked(path).last().expect("it was asked for").from;
    let serving = fleet.which(last);
    fleet.kill(serving);
    fleet.start(serving);
    fleet.wait_for_links();
}

/// The app has the beginning of the first version and nothing else, and sees that it is truncated.
fn is_cut(path: &str, output: &Output) {
    assert!(!output.status.success(), "{path}: a clean end");
    let got = &output.stdout;
    assert!(got.len() >= PART && got.len() < LENGTH, "{path}: {} bytes", got.len());
    assert!(version(1).starts_with(got), "{path}: other bytes");
}

fn curl(fleet: &Fleet, path: &str) -> Process {
    curl_from(fleet, path, 0)
}

/// Asks for everything, or for what comes after the first `from` bytes, as a program does that goes on with a file.
fn curl_from(fleet: &Fleet, path: &str, from: usize) -> Process {
    let mut curl = fleet.client.command("curl");
    curl.args(["--silent", "--show-error", "--no-buffer"]).args(HTTP);
    if from > 0 {
        curl.args(["--range", &format!("{from}-")]);
    }
    curl.arg(format!("http://10.88.0.100{path}"));
    fleet.client.spawn(curl)
}

/// Sends the first part of the first version and then waits.
fn begin(stream: &mut TcpStream, fields: &str) -> io::Result<()> {
    head(stream, "200 OK", LENGTH, fields)?;
    stream.write_all(&version(1)[..PART])?;
    wait_for_the_end(stream)
}

/// Sends `content` from `start` as a range of something with this `total` length.
fn part(stream: &mut TcpStream, start: usize, total: usize, fields: &str, content: &[u8]) -> io::Result<()> {
    range(stream, start, total - 1, total, total - start, fields)?;
    stream.write_all(&content[start..total])
}

fn range(
    stream: &mut TcpStream,
    start: usize,
    last: usize,
    total: usize,
    length: usize,
    fields: &str,
) -> io::Result<()> {
    let range = format!("Content-Range: bytes {start}-{last}/{total}\r\n{fields}");
    head(stream, "206 Partial Content", length, &range)
}

fn head(stream: &mut TcpStream, status: &str, length: usize, fields: &str) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{fields}Connection: close\r\n\r\n")
}
