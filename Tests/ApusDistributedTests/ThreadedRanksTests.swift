import ApusDistributed
import ApusTensor
import Testing

@Suite struct ThreadedRanksTests {
    @Test(arguments: [2, 3, 4]) func everyCollectiveGivesWhatItMust(_ size: Int) throws {
        let outcomes = try ThreadedRanks.run(size) { communicator in
            var check = CommunicationCheck(communicator, sends: false)
            return try check.run()
        }
        #expect(outcomes.allSatisfy { $0.failures.isEmpty && $0.cases > 100 })
    }

    @Test func partsAreOrderedByTheirKey() throws {
        let found = try ThreadedRanks.run(4) { communicator in
            let part = try communicator.split(color: communicator.rank % 2, key: -communicator.rank)
            let sum = Tensor([Float(communicator.rank)], shape: [1])
            try part.allReduce(sum)
            return [part.rank, part.size, Int(sum.floats[0])]
        }
        #expect(found == [[1, 2, 2], [1, 2, 4], [0, 2, 2], [0, 2, 4]])
    }
}
