//! Prints what a BGP peer sends, with nothing but the message codec.
//!
//!     cargo run --example dump -- PEER:PORT LOCAL_AS [ROUTER_ID]
//!
//! The peer must be configured to accept a session from here. Nothing is announced to it.

use sidecast::bgp::{
    Capability, DecodeContext, EncodeContext, Framer, MAX_LEN, Message, Negotiated, Open, Update,
    decode,
};
use sidecast::net::{Asn, Family, RouterId};
use std::error::Error;
use std::fmt::{Debug, Display};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (peer, local_as, router_id) = match args.as_slice() {
        [peer, local_as] => (peer, local_as, Ipv4Addr::new(192, 0, 2, 254)),
        [peer, local_as, router_id] => (peer, local_as, router_id.parse()?),
        _ => return Err("usage: dump PEER:PORT LOCAL_AS [ROUTER_ID]".into()),
    };
    let local_as: Asn = local_as.parse()?;
    let router_id = RouterId::new(router_id).ok_or("0.0.0.0 is no router id")?;
    let families = Family::ALL.map(|family| Capability::Multiprotocol(family.into()));
    let ours = Open::new(local_as, HOLD_TIME, router_id, families.to_vec());
    let mut stream = TcpStream::connect(peer.as_str())?;
    send(&mut stream, &Message::Open(ours.clone()))?;
    let mut negotiated: Option<Negotiated> = None;
    let mut framer = Framer::new();
    let mut space = [0; 4096];
    loop {
        let length = stream.read(&mut space)?;
        if length == 0 {
            return Err("the peer closed the connection".into());
        }
        framer.push(space.get(..length).unwrap_or_default());
        while let Some(frame) = framer.next(MAX_LEN)? {
            let context = match &negotiated {
                Some(negotiated) => DecodeContext::established(negotiated),
                None => DecodeContext::before_open(local_as, router_id, None),
            };
            match decode(&frame, &context)? {
                Message::Open(theirs) => {
                    println!("open AS {} id {}", theirs.asn, theirs.router_id);
                    println!("  capabilities {:?}", theirs.capabilities);
                    negotiated = Some(Negotiated::new(&ours, &theirs)?);
                    send(&mut stream, &Message::Keepalive)?;
                }
                // The peer sends one every third of the hold time; an answer to each keeps us alive too.
                Message::Keepalive => send(&mut stream, &Message::Keepalive)?,
                Message::Update(update) => show(&update),
                Message::Notification(notification) => return Err(notification.to_string().into()),
                Message::RouteRefresh(refresh) => println!("route refresh {refresh:?}"),
            }
        }
    }
}

fn send(stream: &mut TcpStream, message: &Message) -> Result<(), Box<dyn Error>> {
    let bytes = message.encode(&EncodeContext::default())?;
    Ok(stream.write_all(&bytes)?)
}

fn show(update: &Update) {
    for prefix in &update.withdrawn {
        println!("withdrawn {prefix}");
    }
    for announcement in &update.announced {
        let attributes = &announcement.attributes;
        for prefix in &announcement.prefixes {
            println!("announced {prefix}");
        }
        println!("  next hop {}", attributes.next_hop);
        println!(
            "  path [{}] origin {}",
            attributes.as_path, attributes.origin
        );
        optional("med", attributes.med);
        optional("local preference", attributes.local_pref);
        list("communities", &attributes.communities);
        list("large communities", &attributes.large_communities);
        list("extended communities", &attributes.ext_communities);
        announcement
            .others
            .iter()
            .for_each(|other| println!("  other {other:?}"));
    }
    if let Some(family) = update.end_of_rib {
        println!("end of {family}");
    }
    update
        .problems
        .iter()
        .for_each(|problem| println!("problem: {problem}"));
}

fn optional(name: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        println!("  {name} {value}");
    }
}

fn list<T: Display + Debug>(name: &str, values: impl IntoIterator<Item = T>) {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if !values.is_empty() {
        println!("  {name} {}", values.join(" "));
    }
}

/// Seconds.
const HOLD_TIME: u16 = 90;
