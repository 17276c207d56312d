//! Classic BPF (`linux/filter.h`, `linux/bpf_common.h`): programs for `SO_ATTACH_FILTER`, by which the kernel decides
//! what a netlink socket receives. Offsets count from the `nlmsghdr`; a load past the end of the message drops it.

/// One instruction of a program (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfInstruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// The instruction with this opcode.
pub const fn op(code: u16, jt: u8, jf: u8, k: u32) -> BpfInstruction {
    BpfInstruction { code, jt, jf, k }
}

/// Ends the program: the message is received.
pub const ACCEPT: BpfInstruction = op(RETURN, 0, 0, u32::MAX);
/// Ends the program: the message is dropped.
pub const DROP: BpfInstruction = op(RETURN, 0, 0, 0);

/// What a message may have at some offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    load: u16,
    offset: u32,
    /// As the load has it, which takes the bytes for big endian.
    value: u32,
}

/// This byte.
pub fn byte(offset: u32, value: u8) -> Content {
    let value = u32::from(value);
    let load = LOAD_BYTE;
    Content {
        load,
        offset,
        value,
    }
}

/// These two bytes, in the order of the message.
pub fn half(offset: u32, bytes: [u8; 2]) -> Content {
    Content {
        load: LOAD_HALF,
        offset,
        value: u16::from_be_bytes(bytes).into(),
    }
}

/// These four bytes, in the order of the message.
pub fn word(offset: u32, bytes: [u8; 4]) -> Content {
    Content {
        load: LOAD_WORD,
        offset,
        value: u32::from_be_bytes(bytes),
    }
}

/// The instructions of `then`, passed over by a message that lacks any of `contents`.
pub fn when(contents: &[Content], then: Vec<BpfInstruction>) -> Vec<BpfInstruction> {
    let mut program = then;
    for content in contents.iter().rev() {
        // A conditional jump reaches 255 instructions, this one any.
        let past = u32::try_from(program.len()).unwrap_or(u32::MAX);
        let test = [
            op(content.load, 0, 0, content.offset),
            op(JUMP_EQUAL, 1, 0, content.value),
            op(JUMP, 0, 0, past),
        ];
        program.splice(0..0, test);
    }
    program
}

/// BPF_LD | BPF_W | BPF_ABS.
const LOAD_WORD: u16 = 0x20;
/// BPF_LD | BPF_H | BPF_ABS.
pub const LOAD_HALF: u16 = 0x28;
/// BPF_LD | BPF_B | BPF_ABS.
const LOAD_BYTE: u16 = 0x30;
/// BPF_JMP | BPF_JA.
const JUMP: u16 = 0x05;
/// BPF_JMP | BPF_JEQ | BPF_K.
pub const JUMP_EQUAL: u16 = 0x15;
/// BPF_JMP | BPF_JGE | BPF_K.
pub const JUMP_GREATER_EQUAL: u16 = 0x35;
/// BPF_JMP | BPF_JGT | BPF_K.
pub const JUMP_GREATER: u16 = 0x25;
/// BPF_RET | BPF_K.
const RETURN: u16 = 0x06;

/// Runs a program over a message, as the kernel would; `true`: the message is received.
#[cfg(test)]
pub fn passes(program: &[BpfInstruction], message: &[u8]) -> bool {
    let load = |offset: u32, bytes: usize| {
        let start = usize::try_from(offset).unwrap();
        let bytes = message.get(start..start + bytes)?;
        Some(bytes.iter().fold(0, |a, byte| a << 8 | u32::from(*byte)))
    };
    let (mut at, mut a) = (0, 0);
    loop {
        let op = program[at];
        let jump = |yes: bool| usize::from(if yes { op.jt } else { op.jf });
        let loaded = match op.code {
            LOAD_WORD => load(op.k, 4),
            LOAD_HALF => load(op.k, 2),
            LOAD_BYTE => load(op.k, 1),
            _ => Some(a),
        };
        let Some(loaded) = loaded else { return false };
        a = loaded;
        at += 1 + match op.code {
            LOAD_WORD | LOAD_HALF | LOAD_BYTE => 0,
            JUMP => usize::try_from(op.k).unwrap(),
            JUMP_EQUAL => jump(a == op.k),
            JUMP_GREATER_EQUAL => jump(a >= op.k),
            JUMP_GREATER => jump(a > op.k),
            RETURN => return op.k != 0,
            other => panic!("{other:#x}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_all_of_it_takes_the_branch() {
        let contents = [word(0, [1, 2, 3, 4]), half(4, [5, 6]), byte(6, 7)];
        // More instructions than a conditional jump passes over.
        let then = when(&contents, vec![DROP; 300]);
        let program = [then, vec![ACCEPT]].concat();
        assert!(!passes(&program, &[1, 2, 3, 4, 5, 6, 7]));
        assert!(!passes(&program, &[1, 2, 3, 4, 5, 6]), "too short");
        for at in 0..7 {
            let mut other = [1, 2, 3, 4, 5, 6, 7];
            other[at] = 0;
            assert!(passes(&program, &other), "{at}");
        }
    }
}
