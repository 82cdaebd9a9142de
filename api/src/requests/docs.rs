//! Schemas of texts that are read by hand. For the documentation only.

use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

macro_rules! duration {
    ($(#[$doc:meta])* $name:ident $min:literal ..= $max:literal $description:literal) => {
        $(#[$doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new()
                    .schema_type(SchemaType::Type(Type::String))
                    .pattern(Some("^([0-9]{1,9}(ms|s|m|h|d))+$"));
                let seconds = ObjectBuilder::new()
                    .schema_type(SchemaType::Type(Type::Number))
                    .format(Some(SchemaFormat::KnownFormat(KnownFormat::Double)))
                    .minimum(Some($min))
                    .maximum(Some($max));
                AnyOfBuilder::new()
                    .item(text)
                    .item(seconds)
                    .description(Some($description))
                    .examples([serde_json::json!("5s"), serde_json::json!(5)])
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

duration!(
    /// Any duration up to ten years.
    DurationText 0.0..=316_224_000.0
    "A duration: `\"1m30s\"`, `\"250ms\"`, or a number of seconds. At most ten years."
);
duration!(
    /// A limit of an attempt.
    TimeoutText 0.001..=604_800.0
    "A duration of more than 0 and at most 7 days: `\"1m30s\"`, or a number of seconds."
);
duration!(
    /// A wait of at most a week.
    WeekText 0.01..=604_800.0
    "A duration from 10 ms to 7 days: `\"1m30s\"`, or a number of seconds."
);
duration!(
    /// A lease.
    LeaseText 3.0..=3_600.0
    "A duration from 3 s to 1 h: `\"1m30s\"`, or a number of seconds."
);
duration!(
    /// How long a ready job may wait.
    ObjectiveText 1.0..=86_400.0
    "A duration from 1 s to 1 day: `\"1m30s\"`, or a number of seconds."
);
duration!(
    /// The time between two probes of a circuit.
    ProbeText 0.1..=3_600.0
    "A duration from 100 ms to 1 h: `\"5s\"`, or a number of seconds."
);
duration!(
    /// A long poll of a worker.
    PollText 0.0..=50.0
    "A duration of at most 50 s: `\"30s\"`, or a number of seconds."
);
duration!(
    /// A long poll for a job's end.
    WaitText 0.0..=60.0
    "A duration of at most 60 s: `\"30s\"`, or a number of seconds."
);
duration!(
    /// A day at most.
    DayText 0.001..=86_400.0
    "A duration of more than 0 and at most 1 day: `\"1m\"`, or a number of seconds."
);

macro_rules! text {
    ($(#[$doc:meta])* $name:ident $max:literal $pattern:literal) => {
        $(#[$doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(SchemaType::Type(Type::String))
                    .min_length(Some(1))
                    .max_length(Some($max))
                    .pattern(Some($pattern))
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

text!(
    /// A word to find a job by.
    Tag 128 "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028-\\u202e\\u2066-\\u2069\\ufeff]*$"
);
text!(
    /// A queue's name.
    QueueNameText 128 "^[A-Za-z0-9._:-]{1,128}$"
);
text!(
    /// A kind's name.
    KindText 128 "^[A-Za-z0-9._:-]{1,128}$"
);
