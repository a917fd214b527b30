//! Only the members of a group serve each other.

use super::{BIG, Case, HTTP};
use crate::lab::Lab;
use crate::lab::group::{discover, init, up};
use crate::lab::origin::{big, sha256};

pub(super) const CASES: &[Case] =
    &[("trust::another_group_gets_no_offer_and_no_link", another_group_gets_no_offer_and_no_link)];

fn another_group_gets_no_offer_and_no_link(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let _member = group.client(&c1, &[]);

    init(&c2);
    let offers = discover(&c2);
    assert_eq!(offers.code(), 1, "{offers}");
    assert!(!offers.text().contains("10.77.0.21"), "{offers}");

    // The stranger reaches the gateway's port, so it is the gateway that turns it away.
    c2.connect((g1.address(), 7420)).unwrap();
    let mut stranger = up(&c2, &["--gateway", "10.77.0.21:7420", "--hold", "1"]);
    let format = ["--include", "--write-out", "\n%{http_code}"];
    let through_stranger = c2.curl(&[&HTTP as &[&str], &format, &[BIG]].concat()).success();
    let text = through_stranger.text().to_lowercase();
    assert!(text.ends_with("\n503"), "{through_stranger}");
    assert!(text.contains("proxy-status:") && text.contains("retry-after:"), "{through_stranger}");
    // The reason names the gateway that was tried, and is not only that there is none.
    assert!(text.contains("10.77.0.21:7420"), "{through_stranger}");
    assert!(stranger.is_running());
    assert!(!stranger.log().contains("link up"), "the stranger has a link");

    let through_member = c1.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&through_member.stdout), big().sha256);
}
