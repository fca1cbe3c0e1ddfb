from benchmarks.box_training_curves import SAID, UNSAID, labeled_tasks


def test_both_data_sets_have_the_same_scenes_and_boxes_under_other_names() -> None:
    said, unsaid = (labeled_tasks(labels, 5, 8) for labels in (SAID, UNSAID))
    assert [data for data, _ in said] == [data for data, _ in unsaid]
    names = dict(zip(SAID, UNSAID, strict=True))
    for (_, regions), (_, others) in zip(said, unsaid, strict=True):
        labels = [region["value"].pop("rectanglelabels") for region in regions]
        other_labels = [region["value"].pop("rectanglelabels") for region in others]
        assert [[names[label] for label in each] for each in labels] == other_labels
        assert [region["value"] for region in regions] == [region["value"] for region in others]
    assert any(regions for _, regions in said)
