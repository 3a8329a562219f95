//! Reservations past their time, by the database's clock and no other.

use std::time::Duration;

use crate::on_both;
use crate::support::*;

impl<D: LocalDatabase> Shop<D> {
    /// Makes a reservation overdue, as time would.
    async fn let_time_pass(&self, order: Gtid) {
        let id = order.to_string().replace('-', "");
        let sql = format!(
            "UPDATE stock_reservation SET reserved_at = reserved_at - INTERVAL 1 HOUR, \
             expires_at = expires_at - INTERVAL 1 HOUR WHERE gtid = X'{id}'"
        );
        assert_eq!(self.sql(&sql).await.unwrap(), 1);
    }
}

on_both! {
    async fn an_overdue_reservation_is_listed_and_expired(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let (late, later, fresh) = (gtid(), gtid(), gtid());
        for order in [fresh, later, late] {
            shop.reserve(order, &[("T1", 2)]).await.unwrap();
        }
        assert_eq!(shop.overdue(10).await, []);
        shop.let_time_pass(late).await;
        shop.let_time_pass(late).await;
        shop.let_time_pass(later).await;
        let overdue: Vec<_> = shop.overdue(10).await.iter().map(|row| (row.gtid, row.branch)).collect();
        assert_eq!(overdue, [(late, FIRST), (later, FIRST)]);
        assert_eq!(shop.overdue(1).await.len(), 1);
        // Two hours less the 15 minutes of the hold.
        let overdue_s = shop.overdue(1).await[0].overdue_s;
        assert!((6_300..6_360).contains(&overdue_s), "{overdue_s}");
        shop.expire(late).await.unwrap();
        assert_eq!(shop.figures("T1").await, (6, 4));
        assert_eq!(shop.history(late).await[0].state, State::Expired);
        let refused = refusal(shop.expire(fresh).await);
        assert_eq!(refused, format!("the reservation of branch 1 of {fresh} is not overdue"));
        assert_eq!(shop.figures("T1").await, (6, 4));
        shop.audit_is_clean().await;
    }

    /// What has been given back may have been sold to another.
    async fn a_late_confirm_of_an_expired_reservation_is_refused(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 2).await;
        let (late, other) = (gtid(), gtid());
        shop.reserve(late, &[("T1", 2)]).await.unwrap();
        shop.let_time_pass(late).await;
        shop.expire(late).await.unwrap();
        shop.reserve(other, &[("T1", 2)]).await.unwrap();
        let wanted = format!("the reservation of branch 1 of {late} is expired, not pending");
        assert_eq!(refusal(shop.confirm(late).await), wanted);
        assert_eq!(refusal(shop.confirm_part(late, &[("T1", 1)]).await), wanted);
        assert_eq!(refusal(shop.expire(late).await), wanted);
        // Cancel wants what is the case already.
        shop.cancel(late).await.unwrap();
        assert_eq!(shop.history(late).await[0].state, State::Expired);
        shop.confirm(other).await.unwrap();
        assert_eq!(shop.figures("T1").await, (0, 0));
        shop.audit_is_clean().await;
    }

    /// Overdue or not, the coordinator's word counts.
    async fn an_overdue_reservation_can_be_confirmed(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 2).await;
        let late = gtid();
        shop.reserve(late, &[("T1", 2)]).await.unwrap();
        shop.let_time_pass(late).await;
        shop.confirm(late).await.unwrap();
        assert_eq!(shop.overdue(10).await, []);
        assert!(shop.expire(late).await.is_err());
        shop.audit_is_clean().await;
    }

    /// A session that thinks it is elsewhere sees the same times.
    async fn time_zones_do_not_matter(flavor) {
        let url = database(flavor).await;
        let at = |zone: &str| {
            let opts = mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(&url).unwrap());
            mysql_async::Pool::new(opts.setup(vec![format!("SET time_zone = '{zone}'")]))
        };
        let east = Shop::on(at("+13:00"), "stock").await.with("T1", 10).await;
        let west = Shop { database: at("-12:00"), stock: east.stock.clone() };
        let order = gtid();
        east.reserve(order, &[("T1", 1)]).await.unwrap();
        assert_eq!(west.overdue(10).await, []);
        assert!(west.expire(order).await.is_err());
        west.let_time_pass(order).await;
        for shop in [&east, &west] {
            let overdue_s = shop.overdue(10).await[0].overdue_s;
            assert!((2_700..2_760).contains(&overdue_s), "{overdue_s}");
        }
        west.expire(order).await.unwrap();
    }

    async fn how_long_it_is_held_can_be_chosen(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let held = |hold| Shop { database: shop.database.clone(), stock: shop.stock.clone().hold(hold) };
        let (at_once, century) = (gtid(), gtid());
        held(Duration::ZERO).reserve(at_once, &[("T1", 1)]).await.unwrap();
        held(Duration::MAX).reserve(century, &[("T1", 1)]).await.unwrap();
        let overdue: Vec<_> = shop.overdue(10).await.iter().map(|row| row.gtid).collect();
        assert_eq!(overdue, [at_once]);
        let [row] = &shop.history(century).await[..] else { panic!("one row") };
        let year = |time: &str| time[..4].parse::<i32>().unwrap();
        assert!((99..=100).contains(&(year(&row.expires_at) - year(&row.reserved_at))), "{row:?}");
    }
}
