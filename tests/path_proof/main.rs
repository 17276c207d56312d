//! The proof of the path: what a router does with probes to a VIP, seen by the host that sends them. The
//! routers are real, their faults are those of an import policy, a next hop, a table or a static route; the host
//! has the firewalls and NAT that hosts have.

mod announcer;
mod host;
mod lan;
mod probing;
mod routers;
mod verdicts;

use announcer::*;
use host::*;
use lan::*;
use routers::*;
use verdicts::*;

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "nft"]:
        the_announcer_proves_that_its_router_forwards,
        the_announcer_names_a_router_that_refuses,
        bird_forwards_to_the_host,
        an_import_policy_of_bird_is_no_route,
        an_import_policy_beside_a_default_route_shows_the_next_router,
        a_default_route_loop_ends_after_three_hops,
        an_unresolvable_next_hop_is_unreachable_behind_bird,
        a_second_fib_table_is_no_route,
        a_static_route_to_a_sibling_is_answered_by_the_vip,
        a_static_route_to_null_is_silence,
        ecmp_by_ports_shares_the_probes_with_the_other_host,
        ecmp_by_addresses_is_never_a_refusal,
        of_two_routers_on_one_lan_the_gateway_gets_the_probes,
        a_redirect_to_the_sibling_is_not_followed,
        an_ipv6_redirect_to_the_sibling_is_not_seen,
        another_router_may_bring_the_probe_back,
        a_router_that_forwards_is_proven,
        a_router_that_refuses_is_failing,
        a_sibling_that_has_the_traffic_is_named,
        silence_is_never_failing,
        a_share_of_ecmp_is_shown,
        a_flush_of_the_ruleset_does_not_change_the_proof,
        nothing_is_left_after_a_kill,
        the_proof_follows_the_fib_of_bird,
        a_thousand_vips_share_the_limit;
    needs ["bgpd", "zebra", "vtysh", "ip", "nft"]:
        an_import_policy_of_frr_is_no_route,
        an_unresolvable_next_hop_is_no_route_behind_frr;
    needs ["gobgpd", "gobgp", "ip", "nft"]:
        gobgp_with_a_fib_forwards_to_the_host,
        an_import_policy_of_gobgp_is_no_route;
    needs ["ip", "nft"]:
        reverse_path_filters_of_both_ends_let_probes_pass,
        a_flush_of_the_ruleset_is_survived,
        a_service_on_the_port_sees_no_probe,
        nat_of_the_port_takes_no_probe,
        a_firewall_of_the_host_is_named,
        a_missing_source_is_named,
        two_probers_on_one_host_do_not_disturb_each_other,
        nothing_is_left_of_a_prober_that_is_gone,
        errors_of_an_earlier_count_are_forgotten;
    needs ["ip", "nft", "conntrack"]:
        conntrack_gets_no_entry;
    needs ["ip", "nft", "iptables", "ip6tables"]:
        an_rpfilter_in_the_raw_table_and_that_of_firewalld_see_no_probe,
        the_chains_of_docker_are_no_obstacle;
}
