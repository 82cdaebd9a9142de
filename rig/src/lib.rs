//! The fault rig: starts a private fleet, loads it, hurts it, and checks what
//! the clients and the handlers saw against the promises of the product.

pub mod tools;
