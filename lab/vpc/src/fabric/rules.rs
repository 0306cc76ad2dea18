//! The fabric's nftables rules, as text for `nft -f -`.
//!
//! `netdev vpc` holds one ingress chain a NIC: a frame whose (NIC, source MAC, source address) is not in the owners' sets is
//! counted as a spoof and dropped. `inet vpc` is the way to the internet: one public address an instance, translated both ways;
//! connections are tracked for that traffic only.

use std::fmt::Write;
use std::net::IpAddr;

use crate::plan::{FabricPlan, Plug, short_id};

/// Link of the fabric towards the internet.
pub const INET_LINK: &str = "inet0";

/// Everything that does not depend on NICs. Applied once, on an empty namespace.
#[must_use]
pub fn base(plan: &FabricPlan) -> String {
    let join = |nets: &[ipnet::Ipv4Net]| {
        nets.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let vpc4 = join(&plan.vpc4);
    let router = plan.gateway6;
    format!(
        r#"table netdev vpc {{
  set macs {{ type ifname . ether_addr; }}
  set own4 {{ type ifname . ether_addr . ipv4_addr; }}
  set own6 {{ type ifname . ether_addr . ipv6_addr; }}
  # Targets of neighbour advertisements, which this nft can only name by offset.
  set targets6 {{ typeof iifname . ether saddr . @th,64,128; }}
  map spoof_of {{ type ifname : counter; }}
  map other_of {{ type ifname : counter; }}
  counter spoof_total {{ }}

  chain spoof {{
    counter name "spoof_total"
    counter name iifname map @spoof_of
    drop
  }}
  chain other {{
    counter name iifname map @other_of
    drop
  }}
  # accept: the NIC may send it. return: a spoof. other: harmless, but a VPC does not carry it.
  chain check_arp {{
    iifname . arp saddr ether . arp saddr ip @own4 accept
    arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs goto other
  }}
  chain check_ip4 {{
    iifname . ether saddr . ip saddr @own4 accept
    ip saddr 0.0.0.0 udp sport 68 udp dport 67 goto other
  }}
  chain check_ip6 {{
    icmpv6 type {{ nd-router-advert, nd-redirect }} return
    icmpv6 type nd-neighbor-advert goto advert
    iifname . ether saddr . ip6 saddr @own6 accept
    ip6 saddr {router} return
    ip6 saddr fe80::/10 icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit }} accept
    ip6 saddr fe80::/10 goto other
    ip6 saddr :: icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit }} accept
    ip6 saddr :: icmpv6 type {{ 131, 132, 143 }} goto other
  }}
  chain advert {{
    # From an owned or link-local source, about an owned or link-local address, never about the router's.
    ip6 saddr {router} return
    @th,64,128 {router_hex} return
    ip6 saddr fe80::/10 jump target
    iifname . ether saddr . ip6 saddr @own6 jump target
  }}
  chain target {{
    @th,64,10 0x3fa accept
    iifname . ether saddr . @th,64,128 @targets6 accept
  }}
  chain check {{
    iifname . ether saddr != @macs return
    meta protocol vmap {{ arp : goto check_arp, ip : goto check_ip4, ip6 : goto check_ip6 }}
    goto other
  }}
}}
table inet vpc {{
  set vpc4 {{ type ipv4_addr; flags interval; elements = {{ {vpc4} }}; }}
  set primaries {{ type ipv4_addr; }}
  map public_of {{ type ipv4_addr : ipv4_addr; }}
  map private_of {{ type ipv4_addr : ipv4_addr; }}
  map no_internet {{ type ifname : counter; }}
  counter no_internet_total {{ }}

  chain track {{
    type filter hook prerouting priority raw;
    meta nfproto ipv6 notrack accept
    iifname "{INET_LINK}" ip daddr @vpc4 drop
    iifname != "{INET_LINK}" ip daddr @vpc4 notrack
  }}
  chain inward {{
    type nat hook prerouting priority dstnat;
    iifname "{INET_LINK}" dnat ip to ip daddr map @private_of
  }}
  chain outward {{
    type nat hook postrouting priority srcnat;
    oifname "{INET_LINK}" snat ip to ip saddr map @public_of
  }}
  chain gate {{
    type filter hook forward priority filter;
    # A public address that is nobody's would go round in circles.
    iifname "{INET_LINK}" oifname "{INET_LINK}" drop
    oifname "{INET_LINK}" meta nfproto ipv4 ip saddr != @primaries goto refuse
  }}
  chain refuse {{
    counter name "no_internet_total"
    counter name iifname map @no_internet
    drop
  }}
}}
"#,
        router_hex = hex(router),
    )
}

fn hex(address: std::net::Ipv6Addr) -> String {
    format!("0x{:032x}", u128::from(address))
}

/// Adds a NIC's chain, counters and addresses. Its link must exist.
pub fn add_nic(out: &mut String, nic: &str, link: &str, plug: &Plug) {
    let id = short_id(nic);
    let mac = plug.mac;
    line!(out, "add counter netdev vpc spoof_{id}");
    line!(out, "add counter netdev vpc other_{id}");
    line!(out, "add counter inet vpc noinet_{id}");
    line!(
        out,
        "add chain netdev vpc in_{id} {{ type filter hook ingress device \"{link}\" priority -500; policy drop; }}"
    );
    let rule = |out: &mut String, text: &str| {
        line!(out, "add rule netdev vpc in_{id} {text}");
    };
    // The router answers for the NIC's own subnet only.
    rule(
        out,
        &format!(
            "arp daddr ip != {} iifname . arp saddr ether . arp saddr ip @own4 goto other",
            plug.subnet4
        ),
    );
    // A link-layer option that names another's MAC would poison the router's neighbour cache.
    rule(
        out,
        &format!(
            "icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} @th,192,8 1-2 @th,208,48 != 0x{} goto spoof",
            mac.to_string().replace(':', "")
        ),
    );
    rule(out, "jump check");
    rule(out, "goto spoof");
    line!(out, "add element netdev vpc macs {{ \"{link}\" . {mac} }}");
    line!(
        out,
        "add element netdev vpc spoof_of {{ \"{link}\" : \"spoof_{id}\" }}"
    );
    line!(
        out,
        "add element netdev vpc other_of {{ \"{link}\" : \"other_{id}\" }}"
    );
    line!(
        out,
        "add element inet vpc no_internet {{ \"{link}\" : \"noinet_{id}\" }}"
    );
    for address in &plug.addresses {
        element(out, "add", link, plug, *address);
    }
    if let Some(os) = &plug.os {
        public(out, "add", os.address4.addr(), os.public4);
    }
}

/// Removes what [`add_nic`] added; `plug` must be what is there. The link may be gone already.
pub fn remove_nic(out: &mut String, nic: &str, link: &str, plug: &Plug) {
    let id = short_id(nic);
    if let Some(os) = &plug.os {
        public(out, "delete", os.address4.addr(), os.public4);
    }
    for address in &plug.addresses {
        element(out, "delete", link, plug, *address);
    }
    line!(
        out,
        "delete element inet vpc no_internet {{ \"{link}\" : \"noinet_{id}\" }}"
    );
    line!(
        out,
        "delete element netdev vpc spoof_of {{ \"{link}\" : \"spoof_{id}\" }}"
    );
    line!(
        out,
        "delete element netdev vpc other_of {{ \"{link}\" : \"other_{id}\" }}"
    );
    line!(
        out,
        "delete element netdev vpc macs {{ \"{link}\" . {} }}",
        plug.mac
    );
    line!(out, "flush chain netdev vpc in_{id}");
    line!(out, "delete chain netdev vpc in_{id}");
    for counter in ["spoof", "other"] {
        line!(out, "delete counter netdev vpc {counter}_{id}");
    }
    line!(out, "delete counter inet vpc noinet_{id}");
}

/// Adds or deletes (`verb`) one owned address.
pub fn element(out: &mut String, verb: &str, link: &str, plug: &Plug, address: IpAddr) {
    let mac = plug.mac;
    match address {
        IpAddr::V4(a) => {
            line!(
                out,
                "{verb} element netdev vpc own4 {{ \"{link}\" . {mac} . {a} }}"
            );
        }
        IpAddr::V6(a) => {
            line!(
                out,
                "{verb} element netdev vpc own6 {{ \"{link}\" . {mac} . {a} }}"
            );
            line!(
                out,
                "{verb} element netdev vpc targets6 {{ \"{link}\" . {mac} . {} }}",
                hex(a)
            );
        }
    }
}

fn public(out: &mut String, verb: &str, private: std::net::Ipv4Addr, public: std::net::Ipv4Addr) {
    line!(
        out,
        "{verb} element inet vpc public_of {{ {private} : {public} }}"
    );
    line!(
        out,
        "{verb} element inet vpc private_of {{ {public} : {private} }}"
    );
    line!(out, "{verb} element inet vpc primaries {{ {private} }}");
}
