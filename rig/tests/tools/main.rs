//! The fault tools do what they say.

mod proxy_links;
mod proxy_messages;
