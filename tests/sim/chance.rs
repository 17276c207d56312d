//! The random events of the simulation.

use std::time::Duration;

use sidecast::app::AppName;
use sidecast::core::Event;
use sidecast::net::{Family, Prefix};
use sidecast::small_set::SmallSet;

use crate::world::{APPS, Address, World, app, config};

/// One random event.
pub fn event(world: &mut World) {
    match world.chance.below(16) {
        0..=3 => service(world),
        4 => router(world),
        5 => link(world),
        6 => register(world),
        7 => unregister(world),
        8 => drain(world),
        9 => reload(world),
        10 => vanish(world),
        11 => fail(world),
        12 => foreign(world),
        13 => {
            world.slow = Duration::from_millis([1, 30, 900][pick(world, 3)]);
            world.record("the kernel's pace changes");
        }
        14 => network(world),
        _ => world.event(Event::RecheckPorts),
    }
}

fn pick(world: &mut World, bound: u64) -> usize {
    usize::try_from(world.chance.below(bound)).expect("it is small")
}

const MONITORS: [&str; 6] = [
    "port:udp:53",
    "port:tcp:80",
    "port:tcp:81",
    "port:tcp:99",
    "port:tcp:1",
    "port:tcp:2",
];

const VIPS: [&str; 6] = [
    "192.0.2.53/32",
    "2001:db8::53/128",
    "192.0.2.80/32",
    "192.0.2.99/32",
    "192.0.2.1/32",
    "192.0.2.2/32",
];

fn vip(world: &mut World) -> Prefix {
    VIPS[pick(world, 6)].parse().expect("a prefix")
}

fn service(world: &mut World) {
    let monitor = MONITORS[pick(world, 6)];
    let to = [Some(true), Some(true), Some(false), Some(false), None][pick(world, 5)];
    world.record(format!("{monitor} becomes {to:?}"));
    world.services.insert(monitor.to_owned(), to);
    if to.is_some() {
        world.unhang();
    }
}

fn router(world: &mut World) {
    let index = pick(world, 2);
    let up = world.chance.below(3) > 0;
    let families = match pick(world, 4) {
        0 => [Family::Ipv4].into(),
        _ => Family::ALL.into(),
    };
    world.record(format!(
        "router {index} restarts with {families:?}, accepts: {up}"
    ));
    world.routers[index].up = up;
    world.routers[index].families = families;
    world.restart_router(index);
}

fn link(world: &mut World) {
    let index = pick(world, 2);
    if world.routers[index].cut {
        world.record(format!("link {index} mended"));
        world.mend(index);
    } else {
        world.record(format!("link {index} cut"));
        world.routers[index].cut = true;
    }
}

fn register(world: &mut World) {
    let name = ["a", "b", "dns"][pick(world, 3)];
    let mut params = vec![("name".to_owned(), name.to_owned())];
    for _ in 0..=world.chance.below(2) {
        params.push(("vip".to_owned(), VIPS[pick(world, 6)].to_owned()));
    }
    let monitor = MONITORS[4 + pick(world, 2)];
    params.push(("monitor".to_owned(), monitor.to_owned()));
    if world.chance.below(2) == 0 {
        params.push(("nat".to_owned(), "tcp:80:8080".to_owned()));
    }
    let peers = ["", "10.0.0.1", "10.0.0.2", "10.0.0.1,10.0.0.2"][pick(world, 4)];
    params.push(("peers".to_owned(), peers.to_owned()));
    params.push(("interval".to_owned(), "1s".to_owned()));
    let app = app(world.core.config(), &params);
    let done = world.core.register(world.now, app);
    world.record(format!("register {params:?}: {done:?}"));
    world.settle();
}

fn unregister(world: &mut World) {
    let name: AppName = ["a", "b"][pick(world, 2)].parse().expect("a name");
    world.record(format!("unregister {name}"));
    world.core.unregister(world.now, &name);
    world.settle();
}

fn drain(world: &mut World) {
    let name: AppName = ["a", "dns", "web"][pick(world, 3)].parse().expect("a name");
    let name = (world.chance.below(4) > 0).then_some(name);
    if world.chance.below(2) == 0 {
        world.record(format!("drain {name:?}"));
        world.core.drain(world.now, name.as_ref());
    } else {
        world.record(format!("undrain {name:?}"));
        world.core.undrain(world.now, name.as_ref());
    }
    world.settle();
}

fn reload(world: &mut World) {
    let fewer = APPS.split_once("{name: always").expect("it is there").0;
    let renamed = APPS.replace("name: dns", "name: resolver");
    let swapped = APPS
        .replace("192.0.2.80", "192.0.2.x")
        .replace("192.0.2.99", "192.0.2.80")
        .replace("192.0.2.x", "192.0.2.99");
    let to_one = APPS.replace("name: dns,", "name: dns, peers: [10.0.0.2],");
    let apps = [APPS, fewer, &renamed, &swapped, &to_one][pick(world, 5)];
    let more = ["", ", communities: [\"65001:1\"]", ", hold_time: 60s"][pick(world, 3)];
    let more = if more.contains("hold_time") {
        ", router_id: 10.9.9.9"
    } else {
        more
    };
    let mut config = config(apps, more);
    if world.chance.below(3) == 0 {
        // Without those that HTTP alone registers.
        let allowed = VIPS[..4].iter().map(|vip| vip.parse().expect("a prefix"));
        config.agent.allowed_vips = Some(allowed.collect());
    }
    let report = world.core.reload(world.now, config);
    world.record(format!("reload: {report:?}"));
    world.settle();
}

fn vanish(world: &mut World) {
    let prefix = vip(world);
    if world.addresses.remove(&prefix).is_some() {
        world.record(format!("{prefix} vanishes"));
        world.vanished.insert(prefix);
        world.event(Event::AddressLost(prefix));
    }
}

fn fail(world: &mut World) {
    let prefix = vip(world);
    world.nat_fails = world.chance.below(4) == 0;
    if !world.failing.remove(&prefix) {
        world.failing.insert(prefix);
    }
    world.record(format!(
        "steps fail: {:?}, NAT: {}",
        world.failing, world.nat_fails
    ));
}

fn foreign(world: &mut World) {
    let prefix = vip(world);
    let was = world.addresses.get(&prefix);
    if was.is_none() {
        world.record(format!("{prefix} is added by another program"));
        world.addresses.insert(prefix, Address::Foreign);
    }
}

fn network(world: &mut World) {
    let with = world.chance.below(2) == 0;
    world.record(format!("IPv6 toward the peers: {with}"));
    for peer in world.network.peers.values_mut() {
        peer.next_hop6 = with.then(|| "2001:db8:1::9".parse().expect("an address"));
    }
    let network = world.network.clone();
    world.event(Event::Network(network));
}

/// Repairs everything.
pub fn repair(world: &mut World) {
    world.record("everything is repaired");
    world.services.clear();
    world.unhang();
    world.failing.clear();
    world.nat_fails = false;
    world.slow = Duration::from_millis(1);
    for index in 0..world.routers.len() {
        world.routers[index].up = true;
        world.mend(index);
        let families = SmallSet::from(Family::ALL);
        if world.routers[index].families != families {
            world.routers[index].families = families;
            world.restart_router(index);
        }
    }
    for peer in world.network.peers.values_mut() {
        peer.next_hop6 = Some("2001:db8:1::9".parse().expect("an address"));
    }
    let network = world.network.clone();
    world.event(Event::Network(network));
    let mut config = world.core.config().clone();
    config.agent.allowed_vips = None;
    world.core.reload(world.now, config);
    world.settle();
}

/// Sends SIGTERM: within five seconds no route, address or NAT rule of the process may be left.
pub fn stop(world: &mut World) {
    world.record("stop");
    world.event(Event::Stop);
    world.advance(Duration::from_secs(5));
    let trace = world.trace.join("\n");
    assert_eq!(world.exit, Some(0), "{trace}");
    let foreign = |address: &Address| *address == Address::Foreign;
    assert!(
        world.addresses.values().all(foreign),
        "{:?}\n{trace}",
        world.addresses
    );
    assert!(world.nat.rules.is_empty(), "{trace}");
    assert_eq!(world.core.poll_timeout(), None);
    world.exit = None;
    world.advance(Duration::from_secs(1));
    for router in &world.routers {
        assert!(router.rib.is_empty(), "{}\n{trace}", router.name);
    }
}
