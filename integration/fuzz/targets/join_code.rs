//! Join codes: as pasted by a person, and with a valid checksum.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use laneway::trust::code::{CodeError, JoinCode};

/// `data` is the pasted text, and also the content of a code before its checksum.
pub fn run(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data)
        && let Ok(code) = text.parse::<JoinCode>()
    {
        let code = code.to_string();
        let pasted = text.split('#').next().and_then(|text| text.split_once("lw1.")).unwrap().1;
        let is_of_a_code = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
        assert!(pasted.chars().filter(is_of_a_code).eq(code["lw1.".len()..].chars()), "one code, one text");
    }

    let checksum = crc32fast::hash(data).to_be_bytes();
    let text = format!("lw1.{}", URL_SAFE_NO_PAD.encode([data, &checksum].concat()));
    match text.parse::<JoinCode>() {
        Ok(code) => {
            assert_eq!((data.len(), data[0]), (65, 1));
            assert_eq!(code.to_string(), text);
        }
        Err(CodeError::Newer) => assert!(data[0] > 1),
        Err(CodeError::Damaged) => assert!(data.len() != 65 || data[0] == 0),
        Err(CodeError::NotACode) => panic!("it begins like a code"),
    }
}
