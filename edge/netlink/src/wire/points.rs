//! Failpoints around the writes that wire one pod.

tombolo_failpoint::points! {
    /// All of them.
    pub static POINTS;
    /// The veth pair.
    ADD_CREATE_LINK = "add.create-link";
    /// A stale host end of the same name makes room.
    ADD_DOOM_STALE = "add.doom-stale";
    /// Settings of the host end.
    ADD_HOST_SETTINGS = "add.host-settings";
    /// Sources that the host end lets pass, and host ports.
    ADD_SOURCES = "add.sources";
    /// Host end up, neighbours, routes.
    ADD_HOST_END = "add.host-end";
    /// A route of ours to the pod's address that leads elsewhere goes.
    ADD_STALE_ROUTE = "add.stale-route";
    /// The pod's route, where one of those was in its place.
    ADD_ROUTE_AGAIN = "add.route-again";
    /// The rule that asks the table of pods, where packets for the pod went elsewhere.
    ADD_LOOKUP_RULE = "add.lookup-rule";
    /// IPv6 settings in the pod.
    ADD_POD_SETTINGS = "add.pod-settings";
    /// Pod end up, addresses, routes, neighbours.
    ADD_POD_END = "add.pod-end";
    /// Connections of UDP to where its host ports led before.
    ADD_STALE_UDP = "add.stale-udp";
    /// Sources and host ports gone.
    DEL_SOURCES = "del.sources";
    /// Host end down and doomed; routes and neighbours go with that.
    DEL_DOOM_LINK = "del.doom-link";
    /// The interface name in the pod is free.
    DEL_FREE_NAME = "del.free-name";
    /// Doomed links.
    REAP_DELETE_LINKS = "reap.delete-links";
}
