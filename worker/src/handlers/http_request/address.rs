//! Which addresses a request may go to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far requests may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Global unicast addresses only.
    Public,
    /// Also private and loopback addresses; never link-local ones, where clouds keep their metadata.
    Private,
}

impl Reach {
    /// Whether a request may go there.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        match class(canonical(address)) {
            Class::Global => true,
            Class::Private => self == Self::Private,
            Class::Never => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Global,
    Private,
    Never,
}

/// IPv4 in whatever wrapping as IPv4, so that it is judged as what it reaches.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        // Mapped ::ffff:0:0/96, and compatible ::/96 but for :: and ::1, which are themselves.
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => embedded(high, low),
        // NAT64's well-known prefix, which resolvers of IPv6-only networks give out.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        _ => address,
    }
}

fn embedded(high: u16, low: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    match address.octets() {
        // Private, loopback, and shared by carriers.
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        // Alibaba's metadata service lives in the shared range.
        [100, 100, 100, 200] => Class::Never,
        [100, 64..=127, ..] => Class::Private,
        // This network, link-local, protocol assignments, documentation, 6to4 relays, benchmarks.
        [0, ..] | [169, 254, ..] | [192, 0, 0 | 2, _] | [192, 88, 99, _] => Class::Never,
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Class::Never,
        // Azure's metadata and DNS.
        [168, 63, 129, 16] => Class::Never,
        // Multicast, reserved, broadcast.
        [224..=255, ..] => Class::Never,
        _ => Class::Global,
    }
}

fn class_v6(address: Ipv6Addr) -> Class {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Private,
        [0xfc00..=0xfdff, ..] => Class::Private,
        // In 2000::/3, the only global unicast: protocol assignments with Teredo, documentation, 6to4.
        [0x2001, 0x0000..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x2002, ..] => Class::Never,
        [0x3fff, 0x0000..=0x0fff, ..] => Class::Never,
        [0x2000..=0x3fff, ..] => Class::Global,
        // Unspecified, link-local, site-local, multicast, other NAT64 prefixes, discard, SRv6, unassigned.
        _ => Class::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(reach: Reach, text: &str) -> bool {
        reach.allows(text.parse().unwrap())
    }

    #[test]
    fn only_global_unicast_is_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "168.63.129.16",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:808:808::",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:10::1",
            "2001:db8::1",
            "3fff::1",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "fec0::1",
            "5f00::1",
            "100::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!allowed(Reach::Public, text), "{text}");
        }
        for text in [
            "8.8.8.8",
            "1.1.1.1",
            "172.32.0.1",
            "172.15.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "168.63.129.17",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "2001:200::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2001:4860:4860::8888",
        ] {
            assert!(allowed(Reach::Public, text), "{text}");
        }
    }

    #[test]
    fn private_reach_stops_at_link_local_and_metadata() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "8.8.8.8",
        ] {
            assert!(allowed(Reach::Private, text), "{text}");
        }
        for text in [
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "224.0.0.1",
            "2002:7f00:1::",
        ] {
            assert!(!allowed(Reach::Private, text), "{text}");
        }
    }
}
