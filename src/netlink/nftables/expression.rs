//! Expressions of rules: loads into registers, and comparisons.

use super::super::attr::AttrWriter;

pub(super) fn expression(w: &mut AttrWriter, name: &str, body: impl FnOnce(&mut AttrWriter)) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.text(NFTA_EXPR_NAME, name);
        w.nest(NFTA_EXPR_DATA, body);
    });
}

pub(super) fn meta(w: &mut AttrWriter, key: u32) {
    expression(w, "meta", |w| {
        w.u32_be(NFTA_META_KEY, key);
        w.u32_be(NFTA_META_DREG, REG_1);
    });
}

pub(super) fn payload(w: &mut AttrWriter, base: u32, offset: u32, length: u8) {
    payload_into(w, REG_1, base, offset, length);
}

pub(super) fn payload_into(w: &mut AttrWriter, register: u32, base: u32, offset: u32, length: u8) {
    expression(w, "payload", |w| {
        w.u32_be(NFTA_PAYLOAD_DREG, register);
        w.u32_be(NFTA_PAYLOAD_BASE, base);
        w.u32_be(NFTA_PAYLOAD_OFFSET, offset);
        w.u32_be(NFTA_PAYLOAD_LEN, u32::from(length));
    });
}

pub(super) fn equals(w: &mut AttrWriter, value: &[u8]) {
    compare(w, NFT_CMP_EQ, value);
}

pub(super) fn compare(w: &mut AttrWriter, operation: u32, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.u32_be(NFTA_CMP_SREG, REG_1);
        w.u32_be(NFTA_CMP_OP, operation);
        w.nest(NFTA_CMP_DATA, |w| w.bytes(NFTA_DATA_VALUE, value));
    });
}

pub(super) fn immediate(w: &mut AttrWriter, register: u32, value: &[u8]) {
    expression(w, "immediate", |w| {
        w.u32_be(NFTA_IMMEDIATE_DREG, register);
        w.nest(NFTA_IMMEDIATE_DATA, |w| w.bytes(NFTA_DATA_VALUE, value));
    });
}

pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
pub(super) const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
pub(super) const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
pub(super) const NFT_CMP_EQ: u32 = 0;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
pub(super) const NFT_META_L4PROTO: u32 = 16;
pub(super) const NFTA_IMMEDIATE_DREG: u16 = 1;
pub(super) const NFTA_IMMEDIATE_DATA: u16 = 2;
pub(super) const REG_1: u32 = 1;
pub(super) const NFT_META_IIF: u32 = 4;
pub(super) const NFT_CMP_NEQ: u32 = 1;
