//! Logins that belong to a connection, not to a request: NTLM, Negotiate (RFC 4559) and their relatives.

use super::Fields;

/// The schemes whose login is tied to the connection.
const SCHEMES: [&[u8]; 4] = [b"NTLM", b"Negotiate", b"Kerberos", b"Nego2"];

/// Whether a request logs in to the server in such a way.
pub(super) fn is_offered(fields: &Fields) -> bool {
    fields.all("authorization").any(begins_with_scheme)
}

/// Whether a response asks for such a login. The field is a list of challenges, whose parameters are in it too; a
/// challenge begins with the name of its scheme.
pub(super) fn is_asked_for(fields: &Fields) -> bool {
    fields.all("www-authenticate").any(|value| value.split(|&byte| byte == b',').any(begins_with_scheme))
}

fn begins_with_scheme(text: &[u8]) -> bool {
    let word = text.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    SCHEMES.iter().any(|scheme| scheme.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{MAX_HEAD, tokens};

    fn fields(section: &str) -> Fields {
        tokens::request(format!("GET / HTTP/1.1\r\n{section}\r\n").as_bytes(), MAX_HEAD).unwrap().fields
    }

    #[test]
    fn only_logins_of_a_connection_to_the_server_count() {
        for (section, asked, offered) in [
            ("WWW-Authenticate: NTLM\r\n", true, false),
            ("www-authenticate: Basic realm=\"a\", negotiate\r\n", true, false),
            ("WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Negotiate abc=\r\n", true, false),
            ("WWW-Authenticate: Basic realm=\"NTLM\"\r\n", false, false),
            ("WWW-Authenticate: Basic realm=NTLM\r\n", false, false),
            ("Proxy-Authenticate: NTLM\r\nProxy-Authorization: NTLM abc\r\n", false, false),
            ("WWW-Authenticate: Kerberos\r\n", true, false),
            ("WWW-Authenticate: Nego2, Basic realm=\"a\"\r\n", true, false),
            ("Authorization: Kerberos YII=\r\n", false, true),
            ("Authorization: ntlm TlRM\r\n", false, true),
            ("Authorization: NEGOTIATE\r\n", false, true),
            ("Authorization: NTLMv2 a\r\nX: NTLM\r\n", false, false),
            ("Authorization: Basic NTLM\r\n", false, false),
        ] {
            let fields = fields(section);
            assert_eq!((is_asked_for(&fields), is_offered(&fields)), (asked, offered), "{section}");
        }
    }
}
