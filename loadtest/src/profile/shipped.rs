//! The profiles that Windlass ships with.

use super::Profile;

/// Names and texts.
pub const SHIPPED: &[(&str, &str)] = &[
    ("backlog1m", include_str!("../../profiles/backlog1m.toml")),
    ("burst100", include_str!("../../profiles/burst100.toml")),
    ("chaos", include_str!("../../profiles/chaos.toml")),
    ("latency1000", include_str!("../../profiles/latency1000.toml")),
    ("overload3x", include_str!("../../profiles/overload3x.toml")),
    ("service", include_str!("../../profiles/service.toml")),
    ("smoke", include_str!("../../profiles/smoke.toml")),
    ("soak1h", include_str!("../../profiles/soak1h.toml")),
    ("soak5m", include_str!("../../profiles/soak5m.toml")),
    ("spike", include_str!("../../profiles/spike.toml")),
    ("throughput60", include_str!("../../profiles/throughput60.toml")),
    ("trace", include_str!("../../profiles/trace.toml")),
];

/// The profile of a name; `None`: there is none.
pub fn shipped(name: &str) -> Option<Profile> {
    let (_, text) = SHIPPED.iter().find(|(known, _)| *known == name)?;
    Some(Profile::parse(text).expect("a test parses each"))
}
