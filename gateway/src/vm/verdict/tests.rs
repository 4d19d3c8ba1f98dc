use super::*;

#[test]
fn each_rule_has_its_verdict() {
    let agree = Facts { frozen: Some(2), thawed: Some(2), ..Facts::default() };
    let long = Duration::from_secs(11);
    let ten = Some(Duration::from_secs(10));
    let cases = [
        (agree.clone(), Verdict::CountsAgree),
        (Facts { thawed: Some(1), ..agree.clone() }, Verdict::Lost),
        (Facts { thawed: Some(0), ..agree.clone() }, Verdict::Lost),
        (Facts { thawed: Some(3), ..agree.clone() }, Verdict::Unknown),
        (Facts { thawed: None, ..agree.clone() }, Verdict::Unknown),
        (Facts { frozen: None, ..agree.clone() }, Verdict::Unknown),
        (Facts { disrupted: true, ..agree.clone() }, Verdict::Unknown),
        (Facts { incomplete: true, ..agree.clone() }, Verdict::Partial),
        (Facts { found_thawed: true, ..agree.clone() }, Verdict::Lost),
        (Facts { gone: true, ..agree.clone() }, Verdict::Lost),
        (Facts { not_ours: Some("x".into()), ..agree.clone() }, Verdict::Lost),
        (Facts { rolled_back: true, ..agree.clone() }, Verdict::Partial),
        (Facts { held: long, max_hold: ten, ..agree.clone() }, Verdict::Lost),
        (Facts { held: long, ..agree }, Verdict::CountsAgree),
    ];
    for (facts, verdict) in cases {
        assert_eq!(facts.judge().0, verdict, "{facts:?}");
    }
}

#[test]
fn an_agent_that_knows_the_lease_proves_it_or_does_not() {
    let one = |thaw| FilesystemFreeze {
        mountpoint: "/".into(),
        freeze: FreezeResult::Frozen,
        thaw: Some(thaw),
        written_sectors: Some(0),
        ..FilesystemFreeze::default()
    };
    let written =
        |sectors| FilesystemFreeze { written_sectors: sectors, ..one(ThawResult::Thawed) };
    let vfat = FilesystemFreeze {
        mountpoint: "/boot/efi".into(),
        freeze: FreezeResult::Unsupported,
        ..FilesystemFreeze::default()
    };
    let began = AgentFreeze { boot_id: "b".into(), instance: "i".into(), generation: 7 };
    let ended = Thawed {
        count: 1,
        boot_id: "b".into(),
        instance: "i".into(),
        generation: 7,
        filesystems: vec![vfat, one(ThawResult::Thawed)],
    };
    let held = Facts {
        frozen: Some(1),
        thawed: Some(1),
        leased: true,
        // A connection that broke says nothing against an agent that did not.
        disrupted: true,
        began: Some(began),
        ended: Some(ended.clone()),
        ..Facts::default()
    };
    let with = |ended| Facts { ended: Some(ended), ..held.clone() };
    let cases = [
        (held.clone(), Verdict::Held),
        (with(Thawed { boot_id: "c".into(), ..ended.clone() }), Verdict::Lost),
        (with(Thawed { generation: 8, ..ended.clone() }), Verdict::Lost),
        (with(Thawed { instance: "j".into(), ..ended.clone() }), Verdict::Unknown),
        (with(Thawed { count: 0, ..ended.clone() }), Verdict::Lost),
        (with(Thawed { count: 2, ..ended.clone() }), Verdict::Unknown),
        (
            with(Thawed { filesystems: vec![one(ThawResult::NotFrozen)], ..ended.clone() }),
            Verdict::Lost,
        ),
        (with(Thawed { filesystems: Vec::new(), ..ended.clone() }), Verdict::Unknown),
        (with(Thawed { filesystems: vec![written(Some(8))], ..ended.clone() }), Verdict::Lost),
        (with(Thawed { filesystems: vec![written(None)], ..ended }), Verdict::CountsAgree),
        (Facts { incomplete: true, ..held.clone() }, Verdict::Partial),
        (Facts { rolled_back: true, ..held.clone() }, Verdict::Partial),
        (Facts { ended: None, ..held.clone() }, Verdict::Unknown),
        (Facts { found_thawed: true, ..held }, Verdict::Lost),
    ];
    for (facts, verdict) in cases {
        assert_eq!(facts.judge().0, verdict, "{facts:?}");
    }
}
