use super::*;

#[test]
fn every_shipped_profile_can_be_read_and_says_what_must_hold() {
    for (name, text) in SHIPPED {
        let profile = Profile::parse(text).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(Some(&profile), shipped(name).as_ref());
        assert!(!profile.thresholds.is_empty(), "{name} can't fail");
        for figure in ["lost", "wrong", "early", "ghosts"] {
            assert!(profile.thresholds.contains_key(figure), "{name} does not look for {figure}");
        }
        assert!(profile.about.len() < 160, "{name}");
    }
    assert!(shipped("none").is_none());
    assert!(SHIPPED.is_sorted_by_key(|(name, _)| *name), "in order");
}

#[test]
fn a_profile_says_everything_that_is_wrong_with_it() {
    let text = r#"
        about = "wrong"
        jobs = { failing_percent = 101, fails = 5, sleep = ["2s", "1s"] }
        mix = { submit = 0 }
        stages = [
            { name = "a", rate = 5, in_flight = 3, for = "1s" },
            { name = "a", rate = [0, 0], for = "1s" },
            { name = "b c", burst = 0 },
            { name = "c", times_peak = 3, for = "1s", mix = { submit = 1 } },
            { name = "d", users = 5, think = ["3s", "1s"], for = "1s" },
            { name = "e", rate = 5, think = "1s", for = "1s" },
            { name = "f", rate = 5 },
            { name = "g", burst = 5, depth_max = 5 },
        ]
        [thresholds]
        lost = { max = 0, min = 0 }
        "h.end_p99_ms" = { max = 1 }
        ended = { max = 1 }
        early = { max_times = 2 }
    "#;
    let wrong = Profile::parse(text).unwrap_err();
    for what in [
        "jobs.sleep: the first must not be more",
        "jobs.failing_percent",
        "jobs.fails",
        "stages[0]: exactly one",
        "stages[0]: mix: no call",
        "stages[1]: name: there is another stage",
        "stages[1]: rate",
        "stages[2]: name",
        "stages[2]: burst",
        "stages[3]: times_peak: no stage before",
        "stages[4]: think",
        "stages[5]: `joining` and `think`",
        "stages[6]: for",
        "stages[7]: `depth_max`",
        "thresholds.lost: exactly one",
        "thresholds.h.end_p99_ms: there is no stage",
        "thresholds.ended: there is no figure",
        "thresholds.early: `of` goes with",
    ] {
        assert!(wrong.contains(what), "{what:?} is not said:\n{wrong}");
    }
    assert!(!wrong.contains("stages[3]: mix"));
    let misspelt = Profile::parse("about = \"x\"\nstage = []").unwrap_err();
    assert!(misspelt.contains("stage"), "{misspelt}");
}

#[test]
fn scaling_changes_how_long_it_takes_and_not_how_much_comes() {
    let profile = shipped("soak1h").unwrap();
    let short = profile.clone().scaled(0.5);
    assert_eq!(short.length() * 2, profile.length());
    let calls = |profile: &Profile| match profile.stages[0].load() {
        Ok(Load::Open(curve)) => curve.calls() as f64 / curve.length().as_secs_f64(),
        other => panic!("{other:?}"),
    };
    assert!((calls(&profile) - calls(&short)).abs() < 0.01);
}

#[test]
fn a_threshold_that_was_not_measured_does_not_hold() {
    use crate::run::figures::Figures;
    let mut figures = Figures::default();
    figures.note(Some("deep"), "cpu_us_per_job", 55.0);
    figures.note(Some("shallow"), "cpu_us_per_job", 50.0);
    figures.note(None, "calls_per_second", 100.0);
    let of = Some("shallow.cpu_us_per_job".to_owned());
    let none = Threshold { max: None, ..Threshold::at_most(0.0) };
    let flat = Threshold { max_times: Some(1.2), of: of.clone(), ..none.clone() };
    let held = flat.hold("deep.cpu_us_per_job", &figures);
    assert!(held.holds && held.bound == "at most 1.2 times shallow.cpu_us_per_job, 50", "{held:?}");
    let flatter = Threshold { max_times: Some(1.05), ..flat };
    assert!(!flatter.hold("deep.cpu_us_per_job", &figures).holds);
    let least = Threshold { min: Some(100.0), ..none.clone() };
    assert!(least.hold("calls_per_second", &figures).holds);
    assert!(!Threshold { min: Some(100.1), ..none }.hold("calls_per_second", &figures).holds);
    assert!(!Threshold::at_most(1.0).hold("lost", &figures).holds);
}
