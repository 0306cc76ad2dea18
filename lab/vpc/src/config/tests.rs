use super::*;

#[test]
fn default_is_valid_and_round_trips() {
    let config = Config::default();
    config.check().unwrap();
    let text = serde_norway::to_string(&config).unwrap();
    assert_eq!(Config::parse(&text).unwrap(), config);
    assert_eq!(Config::parse("").unwrap(), config);
}

#[test]
fn every_refusal_names_its_field() {
    let subnets = |s: &str| format!("cidrs: [10.0.0.0/16, '2001:db8:1::/48']\nsubnets:\n{s}");
    let cases: Vec<(String, &str)> = vec![
        ("mtu: 100".into(), "`mtu`"),
        ("mtu: lots".into(), "mtu"),
        ("mtuu: 1500".into(), "mtuu"),
        ("cidrs: ['2001:db8::/32']".into(), "`cidrs`"),
        ("cidrs: [10.0.0.1/16]".into(), "`cidrs[0]`"),
        ("cidrs: [10.0.0.0/16, 10.0.1.0/24]".into(), "`cidrs[1]`"),
        ("subnets: []".into(), "`subnets`"),
        (
            subnets(" - {id: a, zone: z, cidr4: 10.0.0.0/30}"),
            "`subnets[0].cidr4`",
        ),
        (
            subnets(" - {id: a, zone: z, cidr4: 10.0.0.300/24}"),
            "cidr4",
        ),
        (
            subnets(" - {id: a, zone: z, cidr4: 10.1.0.0/24}"),
            "`subnets[0].cidr4`",
        ),
        (
            subnets(" - {id: a, zone: '', cidr4: 10.0.0.0/24}"),
            "`subnets[0].zone`",
        ),
        (
            subnets(
                " - {id: a, zone: z, cidr4: 10.0.0.0/24}\n - {id: a, zone: z, cidr4: 10.0.1.0/24}",
            ),
            "`subnets[1].id`",
        ),
        (
            subnets(
                " - {id: a, zone: z, cidr4: 10.0.0.0/24}\n - {id: b, zone: z, cidr4: 10.0.0.128/25}",
            ),
            "`subnets[1].cidr4`",
        ),
        (
            subnets(" - {id: a, zone: z, cidr4: 10.0.0.0/24, cidr6: '2001:db8:2::/64'}"),
            "`subnets[0].cidr6`",
        ),
        (
            "instance_types: [{name: x, max_nics: 0, ipv4_per_nic: 1, ipv6_per_nic: 1}]".into(),
            "`instance_types[0].max_nics`",
        ),
        (
            "instance_types: [{name: x, max_nics: 1, ipv4_per_nic: 0, ipv6_per_nic: 1}]".into(),
            "`instance_types[0].ipv4_per_nic`",
        ),
        (
            "instance_types: [{name: x, ipv4_per_nic: 1, ipv6_per_nic: 1}]".into(),
            "max_nics",
        ),
        (
            "internet: {public4: 10.0.5.0/24}".into(),
            "`internet.public4`",
        ),
        (
            "internet: {hosts: [10.0.0.9]}".into(),
            "`internet.hosts[0]`",
        ),
        ("delays: {attach_ms: -1}".into(), "attach_ms"),
        ("ra: {interval_ms: 1}".into(), "`ra.interval_ms`"),
    ];
    for (text, field) in cases {
        let error = Config::parse(&text).expect_err(&text);
        let error = format!(
            "{error}: {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        );
        assert!(
            error.contains(field),
            "{text}\n gave {error}\n which does not name {field}"
        );
    }
}

#[test]
fn a_type_of_the_file_replaces_the_builtin_one() {
    let config = Config::parse(
        "instance_types: [{name: t3.small, max_nics: 9, ipv4_per_nic: 2, ipv6_per_nic: 2}]",
    )
    .unwrap();
    assert_eq!(config.types()["t3.small"].max_nics, 9);
    assert_eq!(config.types()["m5.large"].ipv4_per_nic, 10);
}
