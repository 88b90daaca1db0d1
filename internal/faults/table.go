package faults

import "strings"

// in names tests of one package.
func in(pkg, names string) (tests []Test) {
	for _, name := range strings.Fields(names) {
		tests = append(tests, Test{pkg, name})
	}
	return tests
}

func all(groups ...[]Test) (tests []Test) {
	for _, g := range groups {
		tests = append(tests, g...)
	}
	return tests
}

// Table is all the faults, by number.
func Table() []Fault {
	return append(append(ofTheCatalog(), ofPushes()...), ofTheRest()...)
}

func ofTheCatalog() []Fault {
	return []Fault{
		{1, "the control plane is killed under load", in("e2e", "TestControlPlaneKilledUnderLoadFailsNoRequestAndSendsNothingAgain TestControlPlaneKilledUnderLoadSendsSotWOnlyWhatItMust"), ""},
		{2, "Consul is killed", all(in("e2e", "TestConsulThatFailsLeavesTheLastGoodCatalogAndIsSaid"), in("watch/consul", "TestRealAgentRestarts TestRealDatacenterIsLost")), ""},
		{3, "a start with Consul down", all(
			in("e2e", "TestAControlPlaneStartsWithoutConsul TestControlPlaneStartsBeforeConsul TestConsulThatHangsAtTheStartIsSaid TestTwoDatacenters"),
			in("watch/consul", "TestRealDatacenterIsAwayAtTheStart"),
			in("control", "TestAStartWithoutItsSourceServesTheDisk"), in("xds", "TestNothingIsServedBeforeTheFirstSnapshot"),
		), ""},
		{4, "Consul is wiped, restored, or another one", all(
			in("e2e", "TestAConsulThatWasWipedMeanwhileIsNotBelieved TestAnOperatorSaysThatAnEmptyConsulIsMeant"),
			in("watch/consul", "TestRealServerIsWiped TestGuardWipedServer TestGuardWipedServerWhoseIndexOvertakes TestGuardTokenLosesItsRights TestAnotherConsulIsDoubtedWhileTheFleetIsThere TestRealATokenThatSeesLess TestAServiceThatCannotBeReadIsNotWaitedForForever"),
			in("control", "TestWhatANewSourceLacksIsJudgedByThePredecessorAndTheSidecars TestWhatASourceCouldNotReadIsKept"),
		), ""},
		{5, "over half of one service vanishes at once", all(
			in("watch/consul", "TestGuardHoldsAndConfirms TestAnInstanceIsKeptWhileItsSidecarIsConnected TestGuardHoldsOnlyRemovals"), in("e2e", "TestAnOperatorDecidesOnARemoval"),
			in("watch/file", "TestARemovalOfMuchWaitsAndWhatComesWithItDoesNot"),
		), ""},
		{6, "over 15 % of the mesh vanishes within 60 s", in("watch/consul", "TestGuardCountsTheMeshWithinAWindow"), ""},
		{7, "the leader is lost", all(in("watch/consul", "TestRealNoLeader TestRealConsistencyNeedsALeader TestGuardWithoutALeader TestRealLeaderOfThreeIsLost TestRealServersLoseEachOther TestOldAnswersAreSaid TestAnotherAddressIsAsked TestBackoff")), ""},
		{8, "an agent restarts", all(in("e2e", "TestAnAgentThatRestartsTakesNothingOut"), in("watch/consul", "TestGuardAgentRestart TestAnAgentThatIsComingBackIsWaitedFor")), ""},
		{9, "a service is scaled to zero", all(
			in("e2e", "TestServiceThatIsRemovedWhileItIsCalledGetsA404AndNoOtherCallFails TestARemovalThatIsOrderlyIsNotDelayed TestWhatLeavesWithItsSidecarIsGoneAtOnce"),
			in("watch/consul", "TestRealLifeOfAnInstance"),
		), ""},
		{10, "an index backwards or 0, 429, 500, truncated, HTML, null", all(
			in("watch/consul", "TestIndexRules TestAnIndexThatGoesBackStartsAgain TestRealServerErrors FuzzAnswers FuzzNormalise FuzzElements"),
			in("consul", "FuzzAnswer TestTransportErrors TestStatusErrors"), in("e2e", "TestConsulThatFailsLeavesTheLastGoodCatalogAndIsSaid"),
		), ""},
		{11, "a query that hangs", all(in("watch/consul", "TestAQueryThatHangs TestRealAgentHangs TestRealNetworkFaults TestOldAnswersAreSaid TestRealServersLoseEachOther"), in("e2e", "TestSlowConsulIsWaitedFor TestLinksThatAreBad")), ""},
		{12, "a check that flaps at 10 Hz", in("watch/consul", "TestBusyIndex"), ""},
		{13, "bad YAML", all(in("policy", "FuzzParse FuzzExpand TestErrorsNameTheirPlaceAndCode TestTenMistakesAreReportedAtOnce"), in("e2e", "TestBadEditWhileServingIsRefusedWithItsLineAndTheMeshGoesOn TestARestartWithABadMeshFileStartsFromTheLastGoodOneAndWaits")), ""},
		{14, "valid YAML, bad meaning", all(in("policy", "TestPoliciesThatAreRefused"), in("translate", "TestWhatCannotBeMadeIsHeld TestListenersDoNotClash"), in("cmd/controlplane", "TestAnEditThatCannotBeFollowedIsRefusedWhole")), ""},
		{15, "an edit that removes over 30 %", in("policy", "TestAnEditRemovesMuchWhereLittleIsLeft TestAnEditThatWaitsIsTakenAtOnceByDeliberateWord TestABeginningIsNoEditWhicheverFileIsCut"), ""},
		{16, "an older generation comes late", all(in("control", "TestReplicasThatDisagreeAreSeen TestAnEditThatReachesOneReplicaFirst"), in("replica", "TestALeaderThatWasPausedWritesNothing"), in("e2e", "TestAnOlderMeshFileAtAnotherReplicaIsSeen")), ""},
		{17, "clean-up of what is in use", all(in("control", "TestTheLastMeshFileIsKeptAsItWasWritten"), in("xds", "TestOrder TestTheMemoryIsBounded TestWhatIsRememberedOfContentsThatAreGone")), ""},
		{18, "nil or blank in any optional field", all(
			in("control", "TestAMeshFileThatPanicsLeavesTheLastOneInForceAndTheCatalogGoesOn TestACatalogThatPanicsHoldsUpNoMeshFileAndIsComparedWholeAfterwards"),
			in("watch/consul", "FuzzNormalise TestAPanicOverAnAnswerIsAFailureOfThatQuery"), in("watch/file", "FuzzParse"), in("policy", "FuzzParse"),
		), ""},
		{19, "what is on disk is corrupt, truncated, foreign, newer", all(
			in("watch/memory", "TestWhatCannotBeBelievedIsSetAside FuzzKeptFile FuzzCatalogIsReadAgain"), in("xds", "TestRefusalsThatAreNoneAreNotTaken FuzzRecall"),
			in("control", "TestAKeptMeshFileThatIsNotWhatWasKeptIsSetAsideAndNotBelieved FuzzKeptMeshFile"), in("sds/join", "FuzzJoinToken"), in("e2e", "TestAKeptCatalogThatIsBrokenIsSetAside"),
		), ""},
		{20, "an oversized snapshot", all(in("xds", "TestAClientThatComesBackWith50000ResourcesIsServed TestLargeBodiesAreShared"), in("policy", "TestAliasesCannotFillTheMemory TestAMeshFileHasABound TestTheMemoryOfALargeFileIsGivenBack"),
			in("control", "TestACatalogThatGrowsMuchIsHeldAndWhatLeavesItIsGone TestGrowthThatIsMeantComesIntoForce TestGrowthInStepsCountsAsOne TestMoreThanWasMeasuredIsHeld TestAnEditThatMakesMuchIsHeldAndTheCatalogGoesOn TestAMeshThatIsSmallOrGrowsSlowlyIsNotHeld")), ""},
		{21, "a source that alternates good and bad", all(in("e2e", "TestASourceThatAlternatesGoodAndBad"), in("policy", "TestWatcherSaysWhyABadFileIsRefusedAndGoesOn"), in("watch/file", "TestSourceKeepsTheLastGood TestAFileThatCannotBeReadIsSaidOnceAndReadWhenItComesBack")), ""},
	}
}

func ofPushes() []Fault {
	return []Fault{
		{22, "an Envoy refuses", all(
			in("xds", "TestNack TestQuarantine TestAskingAgainAfterANack TestEnvoyQuarantine TestEnvoyThatIsNewAfterARestartIsNotSentWhatOthersRefused"), in("e2e", "TestAProxyThatIsNewAfterARestartIsNotSentWhatOthersRefused"),
		), ""},
		{23, "one bad of ten", in("xds", "TestNack TestEnvoy TestEnvoyFirstClustersRejected"), ""},
		{24, "a bad change reaches a canary first", all(in("e2e", "TestABadEditReachesOneEnvoyAndIsTakenBack TestAnEditIsTakenBackWhenTheEnvoyThatHasItDies TestOfSeveralReplicasOneTriesAnEdit"),
			in("control", "TestAnEditGoesToTheProxiesInWaves TestAnEditThatAProxyRefusesIsTakenBack TestAnEditIsTakenBackWhenAProxyThatHasItIsGone TestAnEditThatIsNotAnsweredIsTakenBack TestAnEditThatWasRefusedBeforeIsTakenBack TestEveryHistoryOfWavesEndsWithOneFile TestReplicasTryAnEditOneAfterTheOther")), ""},
		{25, "1,000 events a second for a minute", in("e2e/bench", "TestAThousandChangesASecond"), ""},
		{26, "700 endpoints are replaced at once", in("e2e", "TestSevenHundredInstancesAreReplacedAtOnce"), ""},
		{27, "one noisy service", all(in("watch/consul", "TestBusyIndex"), in("xds", "TestOnlyTheStreamsOfAChangedViewWake")), ""},
		{28, "a fleet reconnects at once", in("cmd/controlplane", "TestAFleetThatComesBackAtOnce TestTenThousandProxiesComeBackWhileTheCatalogChanges"), ""},
		{29, "a move to another replica", in("e2e", "TestSecondControlPlaneWithACopyOfTheDataDirectoryTakesTheFleetOverAndSendsNothingAgain"), ""},
		{30, "a client that stops reading", all(in("xds", "TestASlowReaderIsResetAndHoldsUpNobody TestASlowReaderOverGRPC"), in("e2e", "TestLinksThatAreBad")), ""},
		{31, "10,000 streams come and go at random", all(in("cmd/controlplane", "TestTenThousandStreamsComeAndGo"), in("xds", "TestManyStreams TestEveryHistoryEndsInTheSameState")), ""},
		{32, "malformed requests", all(in("xds/wire", "FuzzDeltaRequest FuzzSotwRequest FuzzHealthMessage"), in("xds", "TestHostileClients TestRequestsThatAreTooMuch FuzzSecretNames")), ""},
		{33, "a cluster is removed while a route names it", all(in("xds", "TestOrder"), in("e2e", "TestServiceThatIsRemovedWhileItIsCalledGetsA404AndNoOtherCallFails TestChangedClusterUnderLoadFailsNoCall")), ""},
		{34, "a listener is updated", in("e2e", "TestListenerChangedInPlaceUnderLoadFailsNoCall TestAnEditOfAnyOtherKeyCutsNothingThatIsOpen"), ""},
		{35, "half-open TCP", all(in("e2e", "TestAHalfOpenConnectionIsNoticedByBothEnds"), in("xds", "TestAHalfOpenConnection")), ""},
		{36, "rotation under load", in("e2e", "TestCertificatesRotateUnderLoadAndNeitherARequestNorAListenerNotices"), ""},
		{37, "the authority is down at rotation", all(in("sds", "TestWhileTheAuthorityIsDownTheLastGoodIsServedUntilItExpires TestAFirstIssueThatFailsIsTriedAgain TestAttemptsBackOff"), in("xds", "TestSecrets")), ""},
		{38, "a bad certificate", in("sds", "TestTheLastCheckFindsWhatIsWrong"), ""},
		{39, "the clock steps", all(in("sds", "TestAClockThatStepsRenewsWhatIsDueAndNoMore TestAMachineThatSleptRenewsOnWaking"), in("sds/token", "TestAClockThatIsAMinuteLateIsForgiven")), ""},
		{40, "suspended for 26 h", in("sds", "TestAMachineThatSleptRenewsOnWaking"), ""},
		{41, "root rotation", all(in("sds", "TestTheRootIsReplacedWithoutAHandshakeThatFails TestTheReplacementOfTheRootIsTakenBack TestARestartGoesOnWithTheReplacementOfTheRoot TestARetirementThatWasInterruptedIsCompleted TestTheRootIsReplacedWhereThereAreIntermediates"), in("control", "TestAStepOfTheRootWaitsForTheOtherReplicas"), in("e2e", "TestTheRootIsReplacedUnderLoad")), ""},
		{42, "a proxy asks for another's secret", all(in("xds", "TestSecrets TestAuthentication FuzzSecretNames"), in("e2e", "TestNodeThatAsksForAnotherServicesSecretGetsNothing"), in("sds/identity", "FuzzServiceID FuzzRoot"), in("sds/token", "FuzzVerify TestHostileTokens"), in("sds", "FuzzAdopt"), in("sds/join", "FuzzWorkloadIdentity")), ""},
	}
}

func ofTheRest() []Fault {
	const rollouts = "rollouts are not built"
	return []Fault{
		{43, "the disk is full or read-only", all(in("e2e", "TestADiskThatIsFullOrReadOnlyStopsNothing"), in("watch/memory", "TestADiskIsWrittenToNoMoreThanOnceInTenSeconds")), ""},
		{44, "a lossy or one-way network to Consul", in("e2e", "TestConsulBehindABadNetwork"), ""},
		{45, "starved CPU, a long pause", all(in("e2e", "TestAControlPlaneThatIsStarvedOrPaused TestALeaderThatIsFrozenOrDrainsAsTheOthersSeeIt"), in("replica", "TestALeaderThatWasPausedWritesNothing")), ""},
		{46, "soak", in("e2e/soak", "TestAShortSoak TestWhatGrowsIsSaid"), ""},
		{47, "SIGTERM with 200 streams", all(in("cmd/controlplane", "TestTheEndWithTwoHundredStreams"), in("xds", "TestDrain"), in("e2e", "TestAFleetOutlivesItsReplicas TestALeaderThatIsFrozenOrDrainsAsTheOthersSeeIt")), ""},
		{48, "a panic in one stream", all(in("xds", "TestAPanicEndsOneStream"), in("control", "TestAPanicInACallEndsThatCallAlone TestAProfileThatPanicsHoldsUpNobodyElse")), ""},
		{49, "a flood of the admin port", all(in("cmd/controlplane", "TestAFloodOfTheAdminAddress"), in("admin", "FuzzRequest")), ""},
		{50, "Prometheus down, empty, NaN, stale", nil, rollouts},
		{51, "the leader is killed in the middle of a step", all(in("replica", "TestAnotherReplicaLeadsWhenTheLeaderIsGone"), in("control", "TestReplicasTakeTheStagesTogether")), rollouts + ": the steps of mTLS are"},
		{52, "two leaders", in("replica", "TestALeaderThatWasPausedWritesNothing TestRealReplicas"), rollouts + ": the steps of mTLS are"},
		{53, "abort with leader and Prometheus down", nil, rollouts},
		{54, "canary endpoints die", nil, rollouts},
		{55, "superseded, or stable vanishes", nil, rollouts},
		{56, "the state of a rollout is lost", in("replica", "TestWithoutConsulWhatWasSharedStays"), rollouts + ": what replicas share of mTLS is"},
	}
}
