//! The fault tools do what they say.

mod child;

mod clock;
mod freeze;
mod power_cut;
mod proxy_links;
mod proxy_messages;
