//! What ends a TLS handshake, in a sentence for the user: the library's own words are names of its types.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// Why a handshake has failed, as a sentence without its beginning, such as "it has sent no certificate", where "it" is the other
/// end.
pub fn in_words(error: &io::Error) -> String {
    match tls(error) {
        Some(error) => said(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection in the TLS handshake".into()
        }
        None => error.to_string(),
    }
}

/// The error with the words of [`in_words`].
pub fn put_in_words(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), in_words(error))
}

/// Whether the other end has said that it does not offer the service that was asked for (RFC 7301 §3.2).
pub fn is_not_offered(error: &io::Error) -> bool {
    tls(error) == Some(&Error::AlertReceived(AlertDescription::NoApplicationProtocol))
}

fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// The sentence for an error of the library.
pub fn said(error: &Error) -> String {
    match error {
        Error::AlertReceived(alert) => alerted(*alert),
        Error::InvalidCertificate(why) => format!("its certificate is not valid: {}", certificate(why)),
        Error::NoCertificatesPresented => "it has sent no certificate".into(),
        Error::InvalidMessage(_) => "it does not speak TLS".into(),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "it has sent a TLS message out of turn".into()
        }
        Error::DecryptError => "it has sent data that cannot be decrypted".into(),
        Error::PeerIncompatible(_) => "it has no version or cipher of TLS in common with this node".into(),
        Error::PeerMisbehaved(_) => "it breaks the rules of TLS".into(),
        Error::PeerSentOversizedRecord => "it has sent a TLS record that is too long".into(),
        Error::NoApplicationProtocol => "it asks for a service that this node does not offer".into(),
        other => other.to_string(),
    }
}

/// What is wrong with a certificate, as a sentence about it.
pub fn certificate(why: &CertificateError) -> String {
    let sentence = match why {
        CertificateError::UnknownIssuer => "it was issued by an authority that is not trusted here",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        CertificateError::Revoked => "it was revoked",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is for another purpose"
        }
        CertificateError::BadEncoding => "it cannot be read",
        CertificateError::BadSignature => "its signature is wrong",
        // The library has no kind of its own for it.
        other if other.to_string().contains("CaUsedAsEndEntity") => {
            "it is that of an authority (CA:TRUE), which no server may use as its own"
        }
        other => return other.to_string(),
    };
    sentence.into()
}

/// What the other end says by an alert (RFC 8446 §6).
fn alerted(alert: AlertDescription) -> String {
    let sentence = match alert {
        AlertDescription::NoApplicationProtocol => "it does not offer the service that was asked for",
        AlertDescription::UnknownCA => "it does not trust the authority that issued this node's certificate",
        AlertDescription::CertificateRevoked => "it says that this node's certificate was revoked",
        AlertDescription::CertificateExpired => "it says that this node's certificate has expired",
        AlertDescription::CertificateRequired => "it requires a certificate",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => "it does not accept this node's certificate",
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity => {
            "it has no version or cipher of TLS in common with this node"
        }
        AlertDescription::UnrecognisedName => "it has no certificate for the name that was asked for",
        AlertDescription::AccessDenied => "it denies access",
        AlertDescription::InternalError => "it reports an error of its own",
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => "it ended the handshake",
        other => return format!("it ended the TLS handshake with the alert {}", name(&format!("{other:?}"))),
    };
    sentence.into()
}

/// The name of an alert as the standard writes it: `BadRecordMac` is `bad_record_mac`.
fn name(of_the_library: &str) -> String {
    let mut name = String::new();
    for c in of_the_library.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() && !name.ends_with('(') {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn what_ends_a_handshake_is_said_without_the_names_of_the_library() {
        for (error, sentence) in [
            (
                Error::AlertReceived(AlertDescription::NoApplicationProtocol),
                "it does not offer the service that was asked for",
            ),
            (
                Error::AlertReceived(AlertDescription::BadRecordMac),
                "it ended the TLS handshake with the alert bad_record_mac",
            ),
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "its certificate is not valid: it was issued by an authority that is not trusted here",
            ),
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "it does not speak TLS"),
        ] {
            assert_eq!(in_words(&failed(error)), sentence);
        }
        let other = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(in_words(&other), other.to_string());
        assert!(is_not_offered(&failed(Error::AlertReceived(AlertDescription::NoApplicationProtocol))));
        assert!(!is_not_offered(&other));
        assert_eq!(put_in_words(&failed(Error::NoCertificatesPresented)).kind(), io::ErrorKind::InvalidData);
    }
}
