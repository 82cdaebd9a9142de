//! Redis passes the engines' suite: a single server, and a Cluster of three masters.

/// A single server.
mod single {
    use windlass_shared::testkit::engine_suite::Rig;
    use windlass_shared::testkit::redis_server::RedisServer;

    pub async fn rig() -> Rig {
        crate::redis_rig::suite_rig(RedisServer::shared().url()).await
    }

    windlass_shared::engine_cases!(crate::redis_suite::single::rig);
}

/// A Cluster of three masters.
mod cluster {
    use windlass_shared::testkit::engine_suite::Rig;
    use windlass_shared::testkit::redis_server::cluster::RedisCluster;

    pub async fn rig() -> Rig {
        crate::redis_rig::suite_rig(RedisCluster::shared().url()).await
    }

    windlass_shared::engine_cases!(crate::redis_suite::cluster::rig, together);
}
