//! The indexes of a Debian archive: a Release file names the SHA-256 of each index, and an index that of each package. Nothing is
//! rewritten, because all paths are relative; the signature of the Release file is for apt to check.

use std::io::{self, BufRead, BufReader, Read};

use super::found::FileDigests;
use super::place::Place;
use super::url::Url;
use crate::cache::digest::{Algorithm, Digest};

/// The longest line that is read, in bytes.
const LONGEST: u64 = 64 * 1024;
/// The most that an index may be unpacked, in bytes.
const LARGEST: u64 = 1 << 30;
/// The most bytes that the names of the files of one source package take.
const MOST_NAMES: usize = 256 * 1024;
/// The memory that xz may take for its dictionary, in KiB: Debian's takes 64 MiB at most.
const XZ_MEMORY: u32 = 80 * 1024;
/// What xz takes besides its dictionary, in KiB.
const XZ_COST: u32 = 512;

/// Whether what is at `url` is such an index.
#[must_use]
pub fn is_index(url: &Url) -> bool {
    let path = url.path.split('?').next().unwrap_or_default();
    let mut segments = path.rsplit('/');
    let (last, above) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let stem = last.split('.').next().unwrap_or_default();
    let is_hashed = above == "SHA256" && segments.next() == Some("by-hash");
    // Of the files named by a hash only, those beside the lists of packages.
    let is_list = is_hashed
        && segments.next().is_some_and(|directory| directory.starts_with("binary-") || directory == "source");
    is_list
        || matches!(last, "InRelease" | "Release")
        || matches!(stem, "Packages" | "Sources") && !last.ends_with(".diff")
}

/// Whether it is a Release file.
#[must_use]
pub fn is_release(url: &Url) -> bool {
    let path = url.path.split('?').next().unwrap_or_default();
    path.ends_with("/InRelease") || path.ends_with("/Release")
}

/// Reads an index, packed with gzip or xz or not, and returns the digests of the files that it names. `holds` hears now and then
/// how much memory that takes, in bytes. Unpacking takes at most `most_memory`.
///
/// # Errors
/// When it cannot be read or unpacked, or not with so much memory.
pub fn read(
    place: &Place,
    index: impl Read,
    most_memory: usize,
    mut holds: impl FnMut(usize),
) -> io::Result<Vec<(Url, Digest)>> {
    let mut packed = BufReader::with_capacity(64 * 1024, index);
    let start = packed.fill_buf()?.to_vec();
    match start.as_slice() {
        [0x1f, 0x8b, ..] => lines(place, flate2::bufread::MultiGzDecoder::new(packed), holds),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            let most = u32::try_from(most_memory / 1024).unwrap_or(u32::MAX).min(XZ_MEMORY);
            let dictionary = dictionary(&start).map_or(most, |size| size.min(most) + XZ_COST) as usize * 1024;
            let unpacked = lzma_rust2::XzReader::new_mem_limit(packed, true, most);
            lines(place, unpacked, |bytes| holds(dictionary + bytes))
        }
        _ => lines(place, packed, holds),
    }
}

/// The size of the dictionary with which the first block of an xz stream is packed, in KiB: it follows the header of the stream
/// (The .xz File Format 1.1, §3.1, §5.3.1). `None` where the header of the block has more fields than usual.
fn dictionary(start: &[u8]) -> Option<u32> {
    let [_size, 0, 0x21, 1, bits, ..] = start.get(12..)? else { return None };
    let bits = u32::from(*bits).min(40);
    Some((2 | bits & 1).checked_shl(bits / 2 + 1).unwrap_or(u32::MAX))
}

/// The section of a Release file or the paragraph of an index that is being read.
#[derive(Default)]
struct Paragraph {
    file: Option<String>,
    digest: Option<Digest>,
    directory: Option<String>,
    /// The files of a source package.
    sources: Vec<(String, Digest)>,
    /// The bytes of their names.
    names: usize,
    is_in_digests: bool,
}

fn lines(place: &Place, text: impl Read, mut holds: impl FnMut(usize)) -> io::Result<Vec<(Url, Digest)>> {
    let mut text = BufReader::with_capacity(64 * 1024, text.take(LARGEST));
    let mut found = FileDigests::default();
    let (release, root) = (is_release(&place.url), root(place));
    let mut paragraph = Paragraph::default();
    let mut line = Vec::new();
    while !found.is_full() {
        holds(found.memory());
        line.clear();
        if text.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let Ok(line) = str::from_utf8(&line) else { continue };
        let line = line.trim_end();
        if line.is_empty() {
            std::mem::take(&mut paragraph).end(&root, &mut found);
            continue;
        }
        if let Some((file, digest)) = paragraph.read(line) {
            match release {
                true => {
                    if let Some(url) = place.url.join(&file) {
                        found.push(url, digest);
                    }
                }
                false if paragraph.names + file.len() <= MOST_NAMES => {
                    paragraph.names += file.len() + size_of::<(String, Digest)>();
                    paragraph.sources.push((file, digest));
                }
                false => {}
            }
        }
    }
    paragraph.end(&root, &mut found);
    Ok(found.into_files())
}

/// What the paths in an index are relative to: the directory that holds `dists`, or the archive itself.
fn root(place: &Place) -> Url {
    match place.url.path.find("/dists/") {
        Some(at) => Url { path: format!("{}/", &place.url.path[..at]), ..place.url.clone() },
        None => place.base.clone(),
    }
}

impl Paragraph {
    /// Reads a line. Returns the path and digest of a line in a list of digests.
    fn read(&mut self, line: &str) -> Option<(String, Digest)> {
        if line.starts_with([' ', '\t']) {
            let mut words = line.split_ascii_whitespace();
            let (hex, _size, file) = (words.next()?, words.next()?, words.next()?);
            let digest = Digest::from_hex(Algorithm::Sha256, hex).filter(|_| self.is_in_digests)?;
            return Some((file.to_owned(), digest));
        }
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        self.is_in_digests = false;
        match key {
            "Filename" => self.file = Some(value.to_owned()),
            "Directory" => self.directory = Some(value.to_owned()),
            "SHA256" if !value.is_empty() => self.digest = Digest::from_hex(Algorithm::Sha256, value),
            "SHA256" | "Checksums-Sha256" => self.is_in_digests = true,
            _ => {}
        }
        None
    }

    fn end(self, root: &Url, found: &mut FileDigests) {
        if let Some((file, digest)) = self.file.zip(self.digest)
            && let Some(url) = root.join(&file)
        {
            found.push(url, digest);
        }
        let directory = self.directory.unwrap_or_default();
        for (file, digest) in self.sources {
            if let Some(url) = root.join(&format!("{}/{file}", directory.trim_end_matches('/'))) {
                found.push(url, digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;
    use crate::fronts::place::Fronts;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    /// A list of two packages, packed with xz.
    const XZ: [&str; 3] = [
        "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4ADUAHRdACgYSGbb2jCF/hberuFGi/ZwV5p62qp45gRanoHVVU2F96MgFH7SJUy6TI5w",
        "1K9okmarrubKm8U2ZaElYmo6h5P+SFwP/Nbvc9iLKFKxja5kap3r66DW0kRUtK3C3pOpDwj07E5w/LzonJfKDw79tQkeiEoAAG/m",
        "z1IfMFTBAAGQAdUBAACyyBvzscRn+wIAAAAABFla",
    ];

    fn place(path: &str) -> Place {
        let fronts = Fronts::new(&["apt/debian=https://deb.example/debian".parse().unwrap()]);
        fronts.place(&format!("/apt/debian/{path}")).unwrap()
    }

    fn files(path: &str, index: &[u8]) -> Vec<String> {
        read(&place(path), index, usize::MAX, |_| ())
            .unwrap()
            .iter()
            .map(|(url, _)| url.to_string())
            .collect()
    }

    #[test]
    fn a_release_file_names_its_indexes() {
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: x\nMD5Sum:\n {} 1 main/a\nSHA256:\n {SHA256}  22 main/binary-amd64/Packages.xz\n {SHA256} 3 main/b\n-----BEGIN PGP SIGNATURE-----\n\nx\n",
            "0".repeat(32)
        );
        assert_eq!(
            files("dists/stable/InRelease", text.as_bytes()),
            [
                "https://deb.example/debian/dists/stable/main/binary-amd64/Packages.xz",
                "https://deb.example/debian/dists/stable/main/b"
            ]
        );
    }

    #[test]
    fn an_index_names_its_packages_however_it_is_packed() {
        let text = format!(
            "Package: a\nFilename: pool/a.deb\nMD5sum: 0\nSHA256: {SHA256}\nDescription: a\n SHA256: x\n\n\
             Package: b\nSHA256: {SHA256}\nFilename: ./pool/b.deb\n"
        );
        let want = ["https://deb.example/debian/pool/a.deb", "https://deb.example/debian/pool/b.deb"];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        // Made by xz 5.4.
        let xz = STANDARD.decode(XZ.concat()).unwrap();
        for index in [text.as_bytes().to_vec(), gzip.finish().unwrap(), xz] {
            assert_eq!(files("dists/stable/main/binary-amd64/Packages.gz", &index), want);
        }
        let sources = format!(
            "Package: a\nDirectory: pool/a\nFiles:\n {} 1 a.dsc\nChecksums-Sha256:\n {SHA256} 1 a.dsc\n {SHA256} 2 a.tar.xz\n",
            "0".repeat(32)
        );
        assert_eq!(
            files("dists/stable/main/source/Sources", sources.as_bytes()),
            ["https://deb.example/debian/pool/a/a.dsc", "https://deb.example/debian/pool/a/a.tar.xz"]
        );
    }

    #[test]
    fn indexes_are_known_by_their_paths() {
        for (path, is) in [
            ("dists/s/InRelease", true),
            ("dists/s/main/binary-amd64/Packages.xz", true),
            ("dists/s/main/binary-amd64/by-hash/SHA256/00", true),
            ("dists/s/main/i18n/by-hash/SHA256/00", false),
            ("dists/s/Release.gpg", false),
            ("pool/a_1.0_amd64.deb", false),
            ("Packages", true),
        ] {
            assert_eq!(is_index(&place(path).url), is, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut index in proptest::collection::vec(any::<u8>(), 0..300), magic in 0..3) {
            let start: &[u8] = match magic { 0 => &[], 1 => &[0x1f, 0x8b, 8, 0], _ => b"\xfd7zXZ\0" };
            index.splice(0..0, start.iter().copied());
            let _ = read(&place("dists/s/main/binary-amd64/Packages"), index.as_slice(), usize::MAX, |_| ());
        }
    }
}
