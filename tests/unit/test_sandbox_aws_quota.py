import pytest

from service.sandbox.aws.quota import Quota, Quotas, TokenBucket


def test_a_full_bucket_lets_a_burst_through_and_then_the_rate():
    bucket = TokenBucket(Quota(per_second=5, burst=5), 100.0)

    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(100.19)
    assert bucket.take(100.21)
    assert not bucket.take(100.21)


def test_a_refused_call_takes_nothing():
    bucket = TokenBucket(Quota(per_second=1, burst=1), 0.0)
    bucket.take(0.0)

    assert [bucket.take(t / 10) for t in range(1, 11)] == [False] * 9 + [True]


def test_a_bucket_holds_no_more_than_its_burst():
    bucket = TokenBucket(Quota(per_second=5, burst=2), 0.0)

    assert [bucket.take(3600.0) for _ in range(3)] == [True, True, False]


def test_a_client_at_the_rate_is_never_refused_and_one_above_it_gets_the_rate():
    at_rate = TokenBucket(Quota(per_second=5, burst=5), 0.0)
    above = TokenBucket(Quota(per_second=5, burst=5), 0.0)

    assert all(at_rate.take(n * 0.2) for n in range(1000))
    assert sum(above.take(n * 0.01) for n in range(10_001)) == pytest.approx(5 * 100 + 5, abs=1)


def test_accounts_regions_and_operations_have_buckets_of_their_own():
    quotas = Quotas()
    for _ in range(5):
        assert quotas.take("1", "eu-west-1", "AssociateKmsKey", 0.0)

    assert not quotas.take("1", "eu-west-1", "AssociateKmsKey", 0.0)
    assert quotas.take("2", "eu-west-1", "AssociateKmsKey", 0.0)
    assert quotas.take("1", "us-east-1", "AssociateKmsKey", 0.0)
    assert quotas.take("1", "eu-west-1", "DescribeLogGroups", 0.0)


def test_a_changed_quota_starts_full_and_a_lifted_one_counts_nothing():
    quotas = Quotas()
    while quotas.take("1", "r", "AssociateKmsKey", 0.0):
        pass
    quotas.set("AssociateKmsKey", Quota(per_second=1, burst=1))
    assert [quotas.take("1", "r", "AssociateKmsKey", 0.0) for _ in range(2)] == [True, False]

    quotas.set("AssociateKmsKey", None)
    assert all(quotas.take("1", "r", "AssociateKmsKey", 0.0) for _ in range(100))

    quotas.reset()
    assert sum(quotas.take("1", "r", "AssociateKmsKey", 0.0) for _ in range(100)) == 5


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (5, 0.5)])
def test_a_quota_that_lets_nothing_through_is_a_mistake(per_second, burst):
    with pytest.raises(ValueError, match="quota"):
        Quota(per_second=per_second, burst=burst)
