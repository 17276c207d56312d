//! Capabilities and user (`capabilities(7)`), set before the first thread starts: `capset` and `prctl` act on
//! one thread, and later threads inherit from it.
//!
//! As an ordinary user a container gets capabilities only from the binary's file (`=p`: permitted, so that it
//! also starts where an engine removed one), and has to raise them itself. As root all unused capabilities
//! are dropped. Children inherit none; those of root get the bounding set, unless `agent.exec_user` names
//! another user.

use std::ffi::CString;
use std::fmt;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, set_capabilities, set_keep_capabilities,
    set_no_new_privs,
};

/// Raises the permitted capabilities that sidecast needs; without them an ordinary user cannot bind port 179.
pub fn raise_capabilities() {
    let Ok(sets) = capabilities(None) else {
        return; // a sandbox without capget
    };
    let effective = sets.effective | (sets.permitted & NEEDED_CAPABILITIES);
    if effective != sets.effective {
        apply(&CapabilitySets { effective, ..sets });
    }
}

/// Switches to `user` (a name, a number, or `UID:GID`) for good and drops all unused capabilities.
///
/// Called after privileged sockets are open. With `commands_as_others` it keeps CAP_SETUID and CAP_SETGID,
/// which [`switch_user_for_command`] needs.
pub fn drop_privileges(user: Option<&str>, commands_as_others: bool) -> Result<(), PrivilegeError> {
    if let Some(user) = user {
        switch_user(&Identity::parse(user, &passwd)?, user)?;
    }
    let mut kept = NEEDED_CAPABILITIES;
    if geteuid().is_root() {
        kept |= NEEDED_AS_ROOT;
        if commands_as_others {
            kept |= SWITCH_USER_CAPABILITIES;
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
    // Linux before 4.3 has no ambient set.
    let _ = clear_ambient_capability_set();
    Ok(())
}

/// Whether commands can run as `user`.
pub fn can_switch_user_for_command(user: &str) -> Result<(), PrivilegeError> {
    let identity = Identity::parse(user, &passwd)?;
    let permitted =
        || capabilities(None).is_ok_and(|sets| sets.permitted.contains(SWITCH_USER_CAPABILITIES));
    // Without no_new_privs a program that root executes gets the whole bounding set.
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

/// Switches to `user` with all its groups and without any capability, to run one command. The bounding set
/// stays: without it a program with file capabilities, as `ping`, would not start. Returns its entry in
/// `/etc/passwd`, if any.
pub fn switch_user_for_command(user: &str) -> Result<Option<User>, PrivilegeError> {
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
    // Linux before 4.3 has no ambient set.
    let _ = clear_ambient_capability_set();
    apply(&CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    });
    Ok(known)
}

/// Why CAP_NET_ADMIN is missing and how to get it; `None` if it is there.
pub fn missing_net_admin() -> Option<String> {
    let status = NetAdminStatus {
        net_admin: capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN)),
        bounded: capability_is_in_bounding_set(CapabilitySet::NET_ADMIN).unwrap_or(true),
        no_new_privs: no_new_privs().unwrap_or(false),
        uid: geteuid().as_raw(),
    };
    status.advice()
}

/// What decides whether CAP_NET_ADMIN is there or can be had.
#[derive(Clone, Copy, Debug)]
struct NetAdminStatus {
    net_admin: bool,
    /// It is in the bounding set.
    bounded: bool,
    no_new_privs: bool,
    uid: u32,
}

impl NetAdminStatus {
    fn advice(self) -> Option<String> {
        if self.net_admin {
            return None;
        }
        let uid = self.uid;
        let remedy = if !self.bounded {
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
            "no CAP_NET_ADMIN, so VIPs and NAT cannot be set: {remedy}; if another program sets the \
             addresses, use agent.vip_interface: none"
        ))
    }
}

/// User and group to switch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
}

impl Identity {
    /// A scratch image has no /etc/passwd, so numbers do.
    fn parse(
        text: &str,
        passwd: &dyn Fn(&PasswdKey<'_>) -> Option<Self>,
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
            return passwd(&PasswdKey::Name(text)).ok_or_else(unknown);
        }
        let uid = number(text)?;
        Ok(passwd(&PasswdKey::Uid(uid)).unwrap_or(Self { uid, gid: uid }))
    }
}

enum PasswdKey<'a> {
    Uid(u32),
    Name(&'a str),
}

fn passwd(wanted: &PasswdKey<'_>) -> Option<Identity> {
    let user = match wanted {
        PasswdKey::Uid(uid) => User::from_uid(Uid::from_raw(*uid)),
        PasswdKey::Name(name) => User::from_name(name),
    };
    let user = user.ok().flatten()?;
    Some(Identity {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    })
}

fn switch_user(identity: &Identity, name: &str) -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let refused = |errno: Errno| PrivilegeError::Refused {
        user: name.to_owned(),
        errno,
    };
    if geteuid() != uid {
        // Otherwise setresuid clears all capabilities.
        let _ = set_keep_capabilities(true);
        setgroups(&[gid]).map_err(refused)?;
        setresgid(gid, gid, gid).map_err(refused)?;
        setresuid(uid, uid, uid).map_err(refused)?;
    }
    // Set-user-ID programs cannot raise the privileges of children.
    let _ = set_no_new_privs(true);
    Ok(())
}

fn apply(sets: &CapabilitySets) {
    if let Err(error) = set_capabilities(None, *sets) {
        log::warn!("cannot set capabilities, keeping the current ones: {error}");
    }
}

/// Why a user cannot be switched to.
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
                "unknown user `{user}`; create it (useradd --system {user}), or give \
                 numbers, as 65534 or 65534:65534"
            ),
            Self::Refused { user, errno } => write!(
                f,
                "cannot switch to user `{user}` ({}): start as root with CAP_SETUID and \
                 CAP_SETGID, or start as that user and leave the key out",
                errno.desc()
            ),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// Addresses, nf_tables and conntrack; listening on port 179; router advertisements.
const NEEDED_CAPABILITIES: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW);

/// Configuration read again although it belongs to another user; monitors that became another user.
const NEEDED_AS_ROOT: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::KILL);

/// To run commands as another user.
const SWITCH_USER_CAPABILITIES: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

#[cfg(test)]
mod tests {
    use super::*;

    fn known(wanted: &PasswdKey<'_>) -> Option<Identity> {
        match wanted {
            PasswdKey::Name("sidecast") | PasswdKey::Uid(990) => {
                Some(Identity { uid: 990, gid: 980 })
            }
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
        let status = NetAdminStatus {
            net_admin: false,
            bounded: true,
            no_new_privs: false,
            uid: 1000,
        };
        let advice = |status: NetAdminStatus| status.advice().unwrap();
        assert!(advice(status).contains("setcap"));
        let escalation = NetAdminStatus {
            no_new_privs: true,
            ..status
        };
        assert!(advice(escalation).contains("allowPrivilegeEscalation: true"));
        let container = NetAdminStatus {
            bounded: false,
            uid: 0,
            ..status
        };
        assert!(advice(container).contains("--cap-add NET_ADMIN"));
        let all = [status, escalation, container];
        assert!(all.iter().all(|one| !advice(*one).contains('\n')));
        let fine = NetAdminStatus {
            net_admin: true,
            ..status
        };
        assert_eq!(fine.advice(), None);
    }
}
