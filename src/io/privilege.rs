//! What this process may do (`capabilities(7)`), settled before its first thread starts: `capset` and
//! `prctl` act on one thread, and later threads inherit from it.
//!
//! As an ordinary user a container has capabilities only through the binary's file (`=p`: permitted, so
//! that it also runs where an engine took one away), and has to raise them itself. As root we give up
//! what nothing here uses. Children get none by inheritance; those of root have what the engine left to
//! root, as they always had, unless they are told to run as somebody else.

use std::ffi::CString;
use std::fmt;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, set_capabilities, set_keep_capabilities,
    set_no_new_privs,
};

/// Makes what the file gave usable; without it an ordinary user cannot even bind a low port.
pub fn raise() {
    let Ok(sets) = capabilities(None) else {
        return; // a sandbox without capget: then nothing can be settled, and nothing is
    };
    let effective = sets.effective | (sets.permitted & USED);
    if effective != sets.effective {
        apply(&CapabilitySets { effective, ..sets });
    }
}

/// Becomes `user` (a name, a number, or `UID:GID`) for good, and gives up what is not needed.
///
/// To be called when what only root may open is open. With `commands_as_others` it keeps what
/// [`become_for_command`] needs, for root whom `no_new_privs` gives nothing anew.
pub fn settle(user: Option<&str>, commands_as_others: bool) -> Result<(), PrivilegeError> {
    if let Some(user) = user {
        become_user(&Identity::parse(user, &passwd)?, user)?;
    }
    let mut kept = USED;
    if geteuid().is_root() {
        kept |= USED_AS_ROOT;
        if commands_as_others {
            kept |= OTHER_USERS;
        }
    }
    let Ok(sets) = capabilities(None) else {
        return Ok(());
    };
    let kept = sets.permitted & kept;
    apply(&CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    });
    // Before Linux 4.3 there are none.
    let _ = clear_ambient_capability_set();
    Ok(())
}

/// Whether commands of ours can run as `user`.
pub fn may_become_for_command(user: &str) -> Result<(), PrivilegeError> {
    let identity = Identity::parse(user, &passwd)?;
    let permitted = || capabilities(None).is_ok_and(|sets| sets.permitted.contains(OTHER_USERS));
    // What root runs has the whole bounding set, if nothing stands against it.
    let bounded = |one| capability_is_in_bounding_set(one).unwrap_or(true);
    let regained = || {
        !no_new_privs().unwrap_or(false)
            && bounded(CapabilitySet::SETUID)
            && bounded(CapabilitySet::SETGID)
    };
    let root = geteuid().is_root() && (permitted() || regained());
    if root || geteuid().as_raw() == identity.uid {
        return Ok(());
    }
    Err(PrivilegeError::Refused {
        user: user.to_owned(),
        errno: Errno::EPERM,
    })
}

/// Becomes `user` with all its groups and without any capability, to run one command. The bounding set
/// stays: without it a program that has capabilities of its own, as `ping` has, does not even start.
/// Where it has a name, its entry of `/etc/passwd` is returned.
pub fn become_for_command(user: &str) -> Result<Option<User>, PrivilegeError> {
    let identity = Identity::parse(user, &passwd)?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let refused = |errno: Errno| PrivilegeError::Refused {
        user: user.to_owned(),
        errno,
    };
    let known = User::from_uid(uid).ok().flatten();
    if geteuid() != uid {
        let name = known.as_ref().map(|known| CString::new(&*known.name));
        match name {
            Some(Ok(name)) => initgroups(&name, gid).map_err(refused)?,
            _ => setgroups(&[gid]).map_err(refused)?,
        }
        setresgid(gid, gid, gid).map_err(refused)?;
        setresuid(uid, uid, uid).map_err(refused)?;
    }
    // Before Linux 4.3 there are none.
    let _ = clear_ambient_capability_set();
    apply(&CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    });
    Ok(known)
}

/// Why addresses and NAT cannot be set, and what to change; `None` when they can.
pub fn without_net_admin() -> Option<String> {
    let standing = Standing {
        net_admin: capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN)),
        bounded: capability_is_in_bounding_set(CapabilitySet::NET_ADMIN).unwrap_or(true),
        no_new_privs: no_new_privs().unwrap_or(false),
        uid: geteuid().as_raw(),
    };
    standing.advice()
}

/// What decides whether the kernel lets us set addresses.
#[derive(Clone, Copy, Debug)]
struct Standing {
    net_admin: bool,
    /// It is in the bounding set: a file or root could give it.
    bounded: bool,
    no_new_privs: bool,
    uid: u32,
}

impl Standing {
    fn advice(self) -> Option<String> {
        if self.net_admin {
            return None;
        }
        let uid = self.uid;
        let cure = if !self.bounded {
            "give it to the container (--cap-add NET_ADMIN; in Kubernetes \
             securityContext.capabilities.add: [NET_ADMIN])"
                .to_owned()
        } else if self.no_new_privs && uid != 0 {
            format!(
                "no_new_privs switches the binary's file capabilities off for uid {uid}: set \
                 allowPrivilegeEscalation: true (Docker: drop no-new-privileges), or run as root"
            )
        } else {
            format!(
                "uid {uid} gets it from the binary's file (setcap \
                 cap_net_admin,cap_net_bind_service=p sidecast), from systemd's \
                 AmbientCapabilities=CAP_NET_ADMIN, or runs as root"
            )
        };
        Some(format!(
            "no CAP_NET_ADMIN, so VIPs and NAT cannot be set: {cure}; where somebody else sets the \
             addresses: agent.vip_interface: none"
        ))
    }
}

/// Whom to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
}

impl Identity {
    /// A scratch image has no /etc/passwd, so numbers do.
    fn parse(
        text: &str,
        passwd: &dyn Fn(&Wanted<'_>) -> Option<Self>,
    ) -> Result<Self, PrivilegeError> {
        let unknown = || PrivilegeError::Unknown(text.to_owned());
        // The highest number says "no change" to setresuid(2): the process would stay root.
        let number = |part: &str| {
            let number = part.parse().ok().filter(|number| *number != u32::MAX);
            number.ok_or_else(unknown)
        };
        if let Some((uid, gid)) = text.split_once(':') {
            return Ok(Self {
                uid: number(uid)?,
                gid: number(gid)?,
            });
        }
        if text.parse::<u32>().is_err() {
            return passwd(&Wanted::Name(text)).ok_or_else(unknown);
        }
        let uid = number(text)?;
        Ok(passwd(&Wanted::Uid(uid)).unwrap_or(Self { uid, gid: uid }))
    }
}

enum Wanted<'a> {
    Uid(u32),
    Name(&'a str),
}

fn passwd(wanted: &Wanted<'_>) -> Option<Identity> {
    let user = match wanted {
        Wanted::Uid(uid) => User::from_uid(Uid::from_raw(*uid)),
        Wanted::Name(name) => User::from_name(name),
    };
    let user = user.ok().flatten()?;
    Some(Identity {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    })
}

fn become_user(identity: &Identity, name: &str) -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let refused = |errno: Errno| PrivilegeError::Refused {
        user: name.to_owned(),
        errno,
    };
    if geteuid() != uid {
        // Otherwise the kernel clears all of them with the user.
        let _ = set_keep_capabilities(true);
        setgroups(&[gid]).map_err(refused)?;
        setresgid(gid, gid, gid).map_err(refused)?;
        setresuid(uid, uid, uid).map_err(refused)?;
    }
    // Its children have no way back, whatever set-user-ID program they find.
    let _ = set_no_new_privs(true);
    Ok(())
}

fn apply(sets: &CapabilitySets) {
    if let Err(error) = set_capabilities(None, *sets) {
        log::warn!("capabilities stay as they are: {error}");
    }
}

/// Why a user's name could not be obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivilegeError {
    Unknown(String),
    Refused { user: String, errno: Errno },
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(user) => write!(
                f,
                "no user `{user}` here; create it (useradd --system {user}), or give \
                 numbers, as 65534 or 65534:65534"
            ),
            Self::Refused { user, errno } => write!(
                f,
                "cannot become `{user}` ({}): start as root with CAP_SETUID and \
                 CAP_SETGID, or start as that user and leave the key out",
                errno.desc()
            ),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// Addresses, nf_tables and conntrack; listening on port 179; router advertisements.
const USED: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW);

/// Configuration read again although it belongs to another user; monitors that became another user.
const USED_AS_ROOT: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::KILL);

/// To run commands as somebody else.
const OTHER_USERS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

#[cfg(test)]
mod tests {
    use super::*;

    fn known(wanted: &Wanted<'_>) -> Option<Identity> {
        match wanted {
            Wanted::Name("sidecast") | Wanted::Uid(990) => Some(Identity { uid: 990, gid: 980 }),
            _ => None,
        }
    }

    #[test]
    fn a_user_is_a_name_a_number_or_two() {
        let parse = |text| Identity::parse(text, &known);
        let of = |uid, gid| Ok(Identity { uid, gid });
        assert_eq!(parse("sidecast"), of(990, 980));
        assert_eq!(parse("990"), of(990, 980));
        assert_eq!(parse("65534"), of(65534, 65534), "a scratch image");
        assert_eq!(parse("65534:100"), of(65534, 100));
        let no_change = ["4294967295", "4294967295:65534", "65534:4294967295"];
        for wrong in ["nobody-here", "1:x", "-1", "4294967296", ""]
            .into_iter()
            .chain(no_change)
        {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error, PrivilegeError::Unknown(wrong.into()));
            assert!(error.to_string().contains("65534:65534"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_change() {
        let standing = Standing {
            net_admin: false,
            bounded: true,
            no_new_privs: false,
            uid: 1000,
        };
        let advice = |standing: Standing| standing.advice().unwrap();
        assert!(advice(standing).contains("setcap"));
        let escalation = Standing {
            no_new_privs: true,
            ..standing
        };
        assert!(advice(escalation).contains("allowPrivilegeEscalation: true"));
        let container = Standing {
            bounded: false,
            uid: 0,
            ..standing
        };
        assert!(advice(container).contains("--cap-add NET_ADMIN"));
        let all = [standing, escalation, container];
        assert!(all.iter().all(|one| !advice(*one).contains('\n')));
        let fine = Standing {
            net_admin: true,
            ..standing
        };
        assert_eq!(fine.advice(), None);
    }
}
