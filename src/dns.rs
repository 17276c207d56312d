//! A DNS query with one question, and the header of its response (RFC 1035 §4), for health checks.
//!
//! Left out: EDNS, name compression in queries, and the contents of records. In a response the question follows
//! the header directly, so its name cannot be compressed.

use crate::wire::{Reader, WireError, Writer};
use std::fmt;

/// The question of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub name: String,
    /// RFC 1035 §3.2.2.
    pub qtype: u16,
}

/// A name that exceeds the limits of RFC 1035 §2.3.4: a label is empty or longer than 63 bytes, or the name
/// is longer than 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError(pub String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a domain name", self.0)
    }
}

impl std::error::Error for NameError {}

impl Question {
    /// A query with this id that asks for recursion.
    pub fn encode(&self, id: u16) -> Result<Vec<u8>, NameError> {
        let mut w = Writer::new();
        w.u16(id);
        w.u16(FLAG_RD);
        for count in [1, 0, 0, 0] {
            w.u16(count);
        }
        self.encode_name(&mut w)?;
        w.u16(self.qtype);
        w.u16(CLASS_IN);
        w.finish().map_err(|_| NameError(self.name.clone()))
    }

    fn encode_name(&self, w: &mut Writer) -> Result<(), NameError> {
        let name = self.name.strip_suffix('.').unwrap_or(&self.name);
        let start = w.len();
        for label in name.split('.').filter(|_| !name.is_empty()) {
            if label.is_empty() || label.len() > MAX_LABEL {
                return Err(NameError(self.name.clone()));
            }
            w.len_u8(|w| w.bytes(label.as_bytes()));
        }
        w.u8(0);
        if w.len() - start > MAX_NAME {
            return Err(NameError(self.name.clone()));
        }
        Ok(())
    }
}

/// The header of a response, and whether its question section repeats ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub id: u16,
    /// QR bit: a response, not a query.
    pub response: bool,
    /// TC bit: truncated; the whole response is available over TCP.
    pub truncated: bool,
    /// RFC 1035 §4.1.1; 0 is NOERROR, 3 NXDOMAIN.
    pub rcode: u8,
    /// Records in the answer section.
    pub answers: u16,
    /// Whether the question section repeats ours. A FORMERR response may have none.
    pub question: QuestionEcho,
}

/// The question section of a response, compared with the query's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionEcho {
    Matches,
    Differs,
    Absent,
}

impl Response {
    /// Decodes the header and compares the question section with `asked`.
    pub fn decode(message: &[u8], asked: &Question) -> Result<Self, WireError> {
        let mut r = Reader::new(message);
        let id = r.u16()?;
        let flags = r.u16()?;
        let questions = r.u16()?;
        let answers = r.u16()?;
        r.take(4)?; // NSCOUNT, ARCOUNT
        let [_, low] = flags.to_be_bytes();
        Ok(Self {
            id,
            response: flags & FLAG_QR != 0,
            truncated: flags & FLAG_TC != 0,
            rcode: low & 0x0f,
            answers,
            question: match questions {
                0 => QuestionEcho::Absent,
                1 => read_question(&mut r, asked)?,
                _ => QuestionEcho::Differs,
            },
        })
    }

    /// Whether it responds to the query with this id. Others are late or forged and are ignored.
    pub fn is_response_to(&self, id: u16) -> bool {
        let echo = match self.question {
            QuestionEcho::Matches => true,
            QuestionEcho::Absent => self.rcode != 0,
            QuestionEcho::Differs => false,
        };
        self.response && self.id == id && echo
    }
}

/// Names compare without regard to case (RFC 4343).
fn read_question(r: &mut Reader<'_>, asked: &Question) -> Result<QuestionEcho, WireError> {
    let mut labels: Vec<&[u8]> = Vec::new();
    let mut length = 1;
    loop {
        let label_len = usize::from(r.u8()?);
        length += label_len + 1;
        if label_len == 0 {
            break;
        }
        if label_len > MAX_LABEL || length > MAX_NAME {
            return Ok(QuestionEcho::Differs); // a pointer, or no name
        }
        labels.push(r.take(label_len)?);
    }
    let name = asked.name.strip_suffix('.').unwrap_or(&asked.name);
    let wanted = name.split('.').filter(|_| !name.is_empty());
    let same_name = wanted.clone().count() == labels.len()
        && wanted
            .zip(&labels)
            .all(|(a, b)| a.as_bytes().eq_ignore_ascii_case(b));
    let same = same_name && r.u16()? == asked.qtype && r.u16()? == CLASS_IN;
    Ok(if same {
        QuestionEcho::Matches
    } else {
        QuestionEcho::Differs
    })
}

const FLAG_QR: u16 = 0x8000;
const FLAG_TC: u16 = 0x0200;
const FLAG_RD: u16 = 0x0100;
const CLASS_IN: u16 = 1;
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str) -> Question {
        Question {
            name: name.to_owned(),
            qtype: 1,
        }
    }

    /// A query for example.com/A with RD set, and (below) an answer to it.
    const QUERY: [u8; 29] = *b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";

    fn answer(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = QUERY.to_vec();
        bytes[2] = 0x81;
        bytes[3] = 0x80;
        bytes[7] = 1;
        bytes.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
        change(&mut bytes);
        bytes
    }

    #[test]
    fn a_query_has_the_layout_of_rfc_1035() {
        assert_eq!(question("example.com").encode(0x1234).unwrap(), QUERY);
        assert_eq!(question("example.com.").encode(0x1234).unwrap(), QUERY);
        let root = question(".").encode(0).unwrap();
        assert_eq!(root[12..], [0, 0, 1, 0, 1]);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let long = "a".repeat(64);
        let many = vec!["a".repeat(63); 4].join(".");
        for name in ["a..b", ".a", long.as_str(), many.as_str()] {
            assert!(question(name).encode(1).is_err(), "{name}");
        }
        assert!(question(&"a".repeat(63)).encode(1).is_ok());
    }

    #[test]
    fn an_answer_to_our_question_is_known_as_such() {
        let asked = question("Example.COM");
        let got = Response::decode(&answer(|_| {}), &asked).unwrap();
        assert!(got.is_response_to(0x1234) && !got.is_response_to(0x1235));
        assert_eq!((got.rcode, got.answers, got.truncated), (0, 1, false));
        let is_response_to = |change: fn(&mut Vec<u8>)| {
            Response::decode(&answer(change), &asked).is_ok_and(|a| a.is_response_to(0x1234))
        };
        assert!(!is_response_to(|b| b[2] = 0x01), "a query is no answer");
        assert!(!is_response_to(|b| b[13] = b'f'), "another name");
        assert!(!is_response_to(|b| b[26] = 28), "another type");
        assert!(!is_response_to(|b| b[5] = 2), "two questions");
        assert!(
            !is_response_to(|b| b[5] = 0),
            "no question in a good answer"
        );
        assert!(
            is_response_to(|b| {
                b.truncate(12);
                b[5] = 0;
                b[3] = 1;
            }),
            "FORMERR may come without a question"
        );
        assert!(!is_response_to(|b| b[12] = 0xc0), "a compressed question");
    }

    #[test]
    fn truncation_and_codes_are_read() {
        let asked = question("example.com");
        let got = Response::decode(&answer(|b| (b[2], b[3]) = (0x83, 0x85)), &asked).unwrap();
        assert!(got.truncated);
        assert_eq!(got.rcode, 5);
    }

    #[test]
    fn every_truncation_of_an_answer_is_an_error_or_no_answer_and_never_a_panic() {
        let asked = question("example.com");
        let whole = answer(|_| {});
        for end in 0..QUERY.len() {
            assert!(Response::decode(&whole[..end], &asked).is_err(), "{end}");
        }
    }
}
