//! Who has access to a file, judged by its security descriptor in text form (Windows, Security Descriptor Definition
//! Language).

/// The account of laneway's own service, `NT SERVICE\laneway`: S-1-5-80 and the SHA-1 of the name in upper case.
pub(crate) const SERVICE: &str = "S-1-5-80-385341364-857113515-890512198-2332559580-3067661548";

/// The system, the administrators, the owner of the file, the creator of a file in a directory, and the installer of Windows:
/// they have access to everything anyway, or they are this user. An administrator's files are for the service too.
const TRUSTED: [&str; 8] = [
    SERVICE,
    "SY",
    "S-1-5-18",
    "BA",
    "S-1-5-32-544",
    "OW",
    "CO",
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",
];

/// The first user or group with access to what has this descriptor, other than `own`, the system and the administrators.
/// `own` has the names of this user in such a text: the SID, and the alias if there is one.
pub(crate) fn stranger(descriptor: &str, own: &[String]) -> Option<String> {
    let is_trusted = |who: &str| TRUSTED.contains(&who) || own.iter().any(|own| own == who);
    let (owner, list) = match parse(descriptor) {
        Some(parsed) => parsed,
        None => return Some("unknown users: it has no readable access list".into()),
    };
    if let Some(owner) = owner.filter(|owner| !is_trusted(owner)) {
        return Some(name(owner));
    }
    // Without a list everybody has access.
    let Some(list) = list else { return Some(name("WD")) };
    list.into_iter().find(|(_, who)| !is_trusted(who)).map(|(_, who)| name(who))
}

/// The owner, and the allowing entries of the access list: rights and who has them.
type Parsed<'a> = (Option<&'a str>, Option<Vec<(&'a str, &'a str)>>);

fn parse(descriptor: &str) -> Option<Parsed<'_>> {
    let owner = descriptor.strip_prefix("O:").map(|rest| &rest[..end_of_sid(rest)]);
    let Some(start) = descriptor.find("D:") else { return Some((owner, None)) };
    let mut rest = &descriptor[start + 2..];
    let flags = rest.find(['(', ':']).unwrap_or(rest.len());
    if rest[..flags].contains("NO_ACCESS_CONTROL") {
        return Some((owner, None));
    }
    rest = &rest[flags..];
    let mut entries = Vec::new();
    while let Some(inside) = rest.strip_prefix('(') {
        // A conditional entry ends with an expression in parentheses.
        let (entry, after) = split_entry(inside)?;
        let fields: Vec<_> = entry.split(';').collect();
        let (kind, rights, who) = (*fields.first()?, *fields.get(2)?, *fields.get(5)?);
        let allows = matches!(kind, "A" | "OA" | "XA" | "ZA");
        let denies = matches!(kind, "D" | "OD" | "XD");
        if !allows && !denies {
            return None;
        }
        if allows && !rights.is_empty() && rights != "0x0" {
            entries.push((rights, who));
        }
        rest = after;
    }
    Some((owner, Some(entries)))
}

/// Splits at the parenthesis that closes an entry.
fn split_entry(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// Where the SID or alias at the beginning of a text ends: before the next part, such as `G:`.
fn end_of_sid(text: &str) -> usize {
    ["G:", "D:", "S:"].into_iter().filter_map(|part| text.find(part)).min().unwrap_or(text.len())
}

/// A name for a frequent SID.
fn name(who: &str) -> String {
    match who {
        "WD" | "S-1-1-0" => "Everyone".into(),
        "BU" | "S-1-5-32-545" => "Users".into(),
        "AU" | "S-1-5-11" => "Authenticated Users".into(),
        "BG" | "S-1-5-32-546" => "Guests".into(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "S-1-5-21-1-2-3-1001";

    fn judge(descriptor: &str) -> Option<String> {
        stranger(descriptor, &[OWN.into(), "LA".into()])
    }

    #[test]
    fn the_system_the_administrators_and_the_user_are_no_strangers() {
        for descriptor in [
            "O:S-1-5-21-1-2-3-1001G:S-1-5-21-1-2-3-513D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;S-1-5-21-1-2-3-1001)",
            "O:BAG:SYD:P(A;;FA;;;SY)(A;;FA;;;BA)",
            "O:LAD:(A;;FA;;;LA)",
            "O:SYD:AI(A;OICIIO;FA;;;CO)(A;ID;0x1f01ff;;;OW)",
            "D:P(D;;FA;;;WD)(A;;FA;;;SY)",
            "O:BAD:P",
            "O:BAD:(A;;;;;WD)",
            "O:BAD:P(A;;FA;;;SY)(A;;FA;;;S-1-5-80-385341364-857113515-890512198-2332559580-3067661548)",
        ] {
            assert_eq!(judge(descriptor), None, "{descriptor}");
        }
    }

    #[test]
    fn any_access_of_others_is_found_and_named() {
        for (descriptor, who) in [
            ("O:BAD:(A;;FA;;;SY)(A;;FR;;;WD)", "Everyone"),
            ("O:BAD:AI(A;OICIID;0x1200a9;;;BU)", "Users"),
            ("O:BAD:(A;IO;FA;;;AU)", "Authenticated Users"),
            ("O:S-1-5-21-1-2-3-1002D:P(A;;FA;;;SY)", "S-1-5-21-1-2-3-1002"),
            ("O:BAD:(XA;;FR;;;S-1-5-21-9;(@User.a == (1)))(A;;FA;;;SY)", "S-1-5-21-9"),
            ("O:BAG:SY", "Everyone"),
            ("O:BAD:NO_ACCESS_CONTROL", "Everyone"),
        ] {
            assert_eq!(judge(descriptor).as_deref(), Some(who), "{descriptor}");
        }
    }

    #[test]
    fn what_cannot_be_read_counts_as_open_and_never_panics() {
        for descriptor in
            ["O:BAD:(A;;FA", "O:BAD:(A)", "D:(?;;FA;;;SY)", "D:((((", "O:", "D", "", "O:Ä", "O:ÄD:(;;;;;)"]
        {
            assert!(judge(descriptor).is_some(), "{descriptor}");
        }
    }
}
